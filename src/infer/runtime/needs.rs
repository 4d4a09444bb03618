//! Which libraries a library needs, and which of them the loader would not find: read from the file, nothing is opened.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::infer::runtime::elf::{u16_at, u64_at};

const PT_LOAD: u64 = 1;
const PT_DYNAMIC: u64 = 2;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_STRSZ: u64 = 10;
/// Largest dynamic section and string table that are read, bytes.
const LARGEST: u64 = 1 << 20;
/// Program headers that are read at most.
const HEADERS: u16 = 256;
/// Folders that the loader searches last.
const DEFAULT: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// The libraries that `path` needs by name and that the loader would not find. Empty for what is no readable library.
pub(in crate::infer) fn missing(path: &Path) -> Vec<String> {
    let needed = needed(path).unwrap_or_default();
    let cache = std::fs::read("/etc/ld.so.cache").unwrap_or_default();
    let folders = folders(path);
    needed.into_iter().filter(|name| !known(&cache, name) && !folders.iter().any(|f| f.join(name).exists())).collect()
}

/// Where the loader looks besides its cache: beside the library (`$ORIGIN`, as ONNX Runtime's are built), then as
/// `LD_LIBRARY_PATH` says.
fn folders(path: &Path) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = path.parent().map(Path::to_owned).into_iter().collect();
    folders.extend(std::env::var_os("LD_LIBRARY_PATH").iter().flat_map(std::env::split_paths));
    folders.extend(DEFAULT.iter().map(PathBuf::from));
    folders.push(format!("/lib/{}-linux-gnu", std::env::consts::ARCH).into());
    folders
}

/// Whether the loader's cache has a library of this name. Each name stands in it as text between zero bytes.
fn known(cache: &[u8], name: &str) -> bool {
    let name = [b"\0", name.as_bytes(), b"\0"].concat();
    cache.windows(name.len()).any(|window| window == name)
}

/// The names in the dynamic section. `None` when the file has none, or is not what it says.
fn needed(path: &Path) -> Option<Vec<String>> {
    let mut file = File::open(path).ok()?;
    let header = read(&mut file, 0, 64)?;
    if !header.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let (table, count) = (u64_at(&header, 32), u16_at(&header, 56).min(HEADERS));
    let programs = read(&mut file, table, u64::from(count) * 56)?;
    let of = |kind| programs.chunks_exact(56).filter(move |entry| u64_at(entry, 0) & 0xffff_ffff == kind);
    let dynamic = of(PT_DYNAMIC).next()?;
    let dynamic = read(&mut file, u64_at(dynamic, 8), u64_at(dynamic, 32))?;
    let entries: Vec<(u64, u64)> = dynamic.chunks_exact(16).map(|e| (u64_at(e, 0), u64_at(e, 8))).collect();
    let value = |tag| entries.iter().find(|(t, _)| *t == tag).map(|(_, v)| *v);
    let (address, size) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
    // The table is told by its address; the segment that is loaded there says where it is in the file.
    let offset = of(PT_LOAD).find_map(|entry| {
        let (offset, start, length) = (u64_at(entry, 8), u64_at(entry, 16), u64_at(entry, 32));
        let within = address.checked_sub(start).filter(|within| *within < length)?;
        offset.checked_add(within)
    })?;
    let strings = read(&mut file, offset, size)?;
    let name = |at: u64| {
        let rest = strings.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok()
    };
    Some(entries.iter().filter(|(tag, _)| *tag == DT_NEEDED).filter_map(|(_, at)| name(*at)).collect())
}

fn read(file: &mut File, at: u64, length: u64) -> Option<Vec<u8>> {
    if length > LARGEST {
        return None;
    }
    let mut bytes = vec![0; length as usize];
    file.seek(SeekFrom::Start(at)).ok()?;
    file.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn this_program_needs_the_c_library_and_has_all_it_needs() {
        let here = std::env::current_exe().unwrap();
        assert!(needed(&here).unwrap().iter().any(|name| name.starts_with("libc.so")));
        assert_eq!(missing(&here), Vec::<String>::new());
    }

    #[test]
    fn a_needed_library_that_is_nowhere_is_named() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let at = bytes.windows(10).position(|w| w == b"\0libc.so.6").unwrap();
        let mut other = bytes;
        other[at + 1..at + 10].copy_from_slice(b"libnone.9");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        std::fs::write(&path, &other).unwrap();
        assert_eq!(missing(&path), ["libnone.9"]);
        std::fs::write(dir.path().join("libnone.9"), b"").unwrap();
        assert_eq!(missing(&path), Vec::<String>::new(), "what lies beside it is found");
    }

    proptest::proptest! {
        #[test]
        fn a_hostile_file_never_panics(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 64..600)) {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[32..40].copy_from_slice(&64_u64.to_le_bytes());
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lib.so");
            std::fs::write(&path, &bytes).unwrap();
            let _ = missing(&path);
        }
    }
}
