//! A look into a library file before anything opens it: whether it can work on this machine, and what it needs.

use std::fs::File;
use std::path::{Path, PathBuf};

use object::elf::{DT_NEEDED, EM_386, EM_AARCH64, EM_ARM, EM_X86_64, ET_DYN, FileHeader64, Machine};
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader};
use object::{Endianness, FileKind, ReadCache};

const HEADER: u64 = size_of::<FileHeader64<Endianness>>() as u64;
/// Folders that the loader searches last.
const DEFAULT: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// The machine that this program is built for; `None` where it has no 64-bit ELF.
const OURS: Option<Machine> = if cfg!(target_arch = "x86_64") {
    Some(EM_X86_64)
} else if cfg!(target_arch = "aarch64") {
    Some(EM_AARCH64)
} else {
    None
};

/// Checks that the file at `path` is a complete shared library for this machine, by its headers alone. The error is the
/// second half of a sentence that begins with the file's name.
pub fn check(path: &Path) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => "there is no such file".to_owned(),
        _ => format!("it cannot be read ({error})"),
    })?;
    if meta.is_dir() {
        return Err("it is a folder, not a library file".into());
    }
    if !meta.is_file() {
        return Err("it is not a regular file".into());
    }
    let length = meta.len();
    if length < HEADER {
        return Err(format!("it has only {length} bytes: not a library, or truncated"));
    }
    let data = ReadCache::new(File::open(path).map_err(|error| format!("it cannot be read ({error})"))?);
    let kind = FileKind::parse(&data).ok().filter(|kind| matches!(kind, FileKind::Elf32 | FileKind::Elf64));
    let (Some(kind), ours) = (kind, OURS) else { return Err("it is not an ELF library".into()) };
    let Some(ours) = ours else { return Ok(()) };
    if kind == FileKind::Elf32 {
        return Err(format!("it is not a 64-bit library, but this program is built for {}", name(ours)));
    }
    let damaged = |error: object::Error| format!("its header is damaged ({error})");
    let header = FileHeader64::<Endianness>::parse(&data).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let machine = header.e_machine(endian);
    if machine != ours {
        return Err(format!("it is built for {}, but this program for {}", name(machine), name(ours)));
    }
    if header.e_type(endian) != ET_DYN {
        return Err("it is an ELF file, but not a shared library".into());
    }
    let segments = header
        .program_headers(endian, &data)
        .map_err(|_| "it is truncated: its program headers are not all there".to_owned())?;
    // The section table lies at the end of the file. A stripped library may have none, so the segments count as well.
    let table = u64::from(header.e_shnum(endian)) * u64::from(header.e_shentsize(endian));
    let ends = segments.iter().map(|segment| segment.p_offset(endian).saturating_add(segment.p_filesz(endian)));
    let needed = ends.fold(header.e_shoff(endian).saturating_add(table), u64::max);
    if length < needed {
        return Err(format!("it is truncated: it has {length} bytes, its headers describe {needed}"));
    }
    Ok(())
}

fn name(machine: Machine) -> String {
    match machine {
        EM_X86_64 => "x86-64".into(),
        EM_AARCH64 => "aarch64".into(),
        EM_ARM => "32-bit ARM".into(),
        EM_386 => "32-bit x86".into(),
        other => format!("machine {}", other.0),
    }
}

/// The libraries that `path` needs by name and that the loader would not find. Empty for what is no readable library.
pub(in crate::infer) fn missing(path: &Path) -> Vec<String> {
    let cache = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
    let folders = folders(path);
    let found = |name: &String| in_cache(&cache, name) || folders.iter().any(|folder| folder.join(name).exists());
    needed(path).unwrap_or_default().into_iter().filter(|name| !found(name)).collect()
}

/// Where the loader looks besides its cache: beside the library (`$ORIGIN`, as ONNX Runtime's are built), in
/// `LD_LIBRARY_PATH`, in its default folders.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = path.parent().map(Path::to_owned).into_iter().collect();
    folders.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    folders.extend(DEFAULT.iter().map(PathBuf::from));
    folders.push(format!("/lib/{}-linux-gnu", std::env::consts::ARCH).into());
    folders
}

/// Whether the loader's cache has a library of this name. It holds each name as text between zero bytes.
fn in_cache(cache: &[u8], name: &str) -> bool {
    let name = [b"\0", name.as_bytes(), b"\0"].concat();
    cache.windows(name.len()).any(|window| window == name)
}

/// The names in the file's dynamic table.
fn needed(path: &Path) -> object::Result<Vec<String>> {
    let Ok(file) = File::open(path) else { return Ok(Vec::new()) };
    let data = ReadCache::new(file);
    let file = ElfFile64::<Endianness, _>::parse(&data)?;
    let table = file.elf_dynamic_table()?;
    let names = table.iter().filter(|entry| entry.tag == DT_NEEDED).filter_map(|entry| table.string(entry).ok());
    Ok(names.map(|name| String::from_utf8_lossy(name).into_owned()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    /// A library that is certainly complete: the C library of this very process.
    fn libc() -> Vec<u8> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let path = maps.lines().filter_map(|l| l.split_whitespace().nth(5)).find(|p| p.contains("/libc")).unwrap();
        std::fs::read(path).unwrap()
    }

    fn checked(bytes: &[u8]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        std::fs::write(&path, bytes).unwrap();
        check(&path)
    }

    fn complains(bytes: &[u8], word: &str) {
        let error = checked(bytes).unwrap_err();
        assert!(error.contains(word), "{error:?} does not contain {word:?}");
    }

    #[test]
    fn a_complete_library_passes() {
        assert_eq!(checked(&libc()), Ok(()));
    }

    #[test]
    fn a_library_cut_anywhere_is_reported_as_truncated() {
        let whole = libc();
        for percent in [1, 10, 50, 90, 99] {
            complains(&whole[..whole.len() * percent / 100], "truncated");
        }
        complains(&whole[..40], "truncated");
        complains(b"", "truncated");
    }

    #[test]
    fn other_files_and_other_machines_are_refused() {
        complains(&[b'x'; 1000], "not an ELF");
        let mut other = libc();
        other[18] = if cfg!(target_arch = "x86_64") { 183 } else { 62 };
        complains(&other, "built for");
        let mut narrow = libc();
        narrow[4] = 1;
        complains(&narrow, "64-bit");
        let mut object = libc();
        object[16] = 1;
        complains(&object, "not a shared library");
    }

    #[test]
    fn a_folder_and_a_missing_file_are_named() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path()).unwrap_err().contains("folder"));
        assert!(check(&dir.path().join("none")).unwrap_err().contains("no such file"));
    }

    #[test]
    fn this_program_needs_the_c_library_and_all_that_it_needs_is_found() {
        let here = std::env::current_exe().unwrap();
        assert!(needed(&here).unwrap().iter().any(|name| name.starts_with("libc.so")));
        assert_eq!(missing(&here), Vec::<String>::new());
    }

    #[test]
    fn a_needed_library_that_is_nowhere_is_named() {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let at = bytes.windows(10).position(|w| w == b"\0libc.so.6").unwrap();
        bytes[at + 1..at + 10].copy_from_slice(b"libnone.9");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        std::fs::write(&path, &bytes).unwrap();
        assert_eq!(missing(&path), ["libnone.9"]);
        std::fs::write(dir.path().join("libnone.9"), b"").unwrap();
        assert_eq!(missing(&path), Vec::<String>::new(), "what lies beside it is found");
    }

    proptest::proptest! {
        #[test]
        fn a_hostile_file_never_panics(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 64..600)) {
            bytes[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
            bytes[16..20].copy_from_slice(&[3, 0, if cfg!(target_arch = "x86_64") { 62 } else { 183 }, 0]);
            bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lib.so");
            std::fs::write(&path, &bytes).unwrap();
            let _ = (check(&path), missing(&path));
        }
    }
}
