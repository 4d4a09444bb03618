//! A look at the head of a library before anything opens it: enough to say in plain words why it cannot work.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

const HEADER: usize = 64;
const SECTION_HEADER: u64 = 64;
const PROGRAM_HEADER: u64 = 56;
const ET_DYN: u16 = 3;

/// Machines that Ocelli is built for, by their ELF number.
const MACHINES: [(u16, &str); 4] = [(62, "x86-64"), (183, "aarch64"), (40, "32-bit ARM"), (3, "32-bit x86")];

/// The ELF number of the machine that this program is built for; `None` where it has no 64-bit ELF.
const OURS: Option<u16> = if cfg!(target_arch = "x86_64") {
    Some(62)
} else if cfg!(target_arch = "aarch64") {
    Some(183)
} else {
    None
};

/// Reads the ELF header of `path` and checks that the file is a complete shared library for this machine.
///
/// # Errors
/// What is wrong with the file, as the second half of a sentence that began with its name.
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
    let mut file = File::open(path).map_err(|error| format!("it cannot be read ({error})"))?;
    let length = meta.len();
    let mut header = [0_u8; HEADER];
    file.read_exact(&mut header).map_err(|_| format!("it has only {length} bytes: not a library, or truncated"))?;
    if &header[..4] != b"\x7fELF" {
        return Err("it is not an ELF library".into());
    }
    let Some(ours) = OURS else { return Ok(()) };
    if header[4] != 2 || header[5] != 1 {
        return Err(format!("it is not a 64-bit little-endian library, but this program is built for {}", name(ours)));
    }
    let (kind, machine) = (u16_at(&header, 16), u16_at(&header, 18));
    if machine != ours {
        return Err(format!("it is built for {}, but this program for {}", name(machine), name(ours)));
    }
    if kind != ET_DYN {
        return Err("it is an ELF file, but not a shared library".into());
    }
    let needed = needed_length(&mut file, &header)?;
    if length < needed {
        return Err(format!("it is truncated: it has {length} bytes, its own headers speak of {needed}"));
    }
    Ok(())
}

/// The length that the file must have for its section table, its program headers and its loaded segments.
fn needed_length(file: &mut File, header: &[u8; HEADER]) -> Result<u64, String> {
    let (programs, sections) = (u64_at(header, 32), u64_at(header, 40));
    let (program_count, section_count) = (u64::from(u16_at(header, 56)), u64::from(u16_at(header, 60)));
    let mut needed = sections.saturating_add(section_count * SECTION_HEADER);
    needed = needed.max(programs.saturating_add(program_count * PROGRAM_HEADER));
    // A stripped library may lie about its sections; what the loader maps is in the program headers.
    for index in 0..program_count {
        let mut entry = [0_u8; PROGRAM_HEADER as usize];
        let read = file
            .seek(SeekFrom::Start(programs.saturating_add(index * PROGRAM_HEADER)))
            .and_then(|_| file.read_exact(&mut entry));
        if read.is_err() {
            return Err("it is truncated: its program headers are not all there".into());
        }
        needed = needed.max(u64_at(&entry, 8).saturating_add(u64_at(&entry, 32)));
    }
    Ok(needed)
}

fn name(machine: u16) -> String {
    MACHINES
        .iter()
        .find(|(number, _)| *number == machine)
        .map_or_else(|| format!("machine {machine}"), |(_, n)| (*n).into())
}

pub(in crate::infer) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

pub(in crate::infer) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
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

    fn verdict(bytes: &[u8]) -> Result<(), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lib.so");
        std::fs::write(&path, bytes).unwrap();
        check(&path)
    }

    fn complains(bytes: &[u8], word: &str) {
        let error = verdict(bytes).unwrap_err();
        assert!(error.contains(word), "{error:?} does not speak of {word:?}");
    }

    #[test]
    fn a_whole_library_passes() {
        assert_eq!(verdict(&libc()), Ok(()));
    }

    #[test]
    fn a_cut_library_is_called_truncated_wherever_it_was_cut() {
        let whole = libc();
        for percent in [1, 10, 50, 90, 99] {
            complains(&whole[..whole.len() * percent / 100], "truncated");
        }
        complains(&whole[..40], "truncated");
        complains(b"", "truncated");
    }

    #[test]
    fn what_is_no_library_is_said_to_be_none() {
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

    proptest::proptest! {
        #[test]
        fn a_hostile_header_never_panics(mut bytes in proptest::collection::vec(proptest::num::u8::ANY, 64..512)) {
            bytes[..6].copy_from_slice(b"\x7fELF\x02\x01");
            bytes[16..20].copy_from_slice(&[3, 0, if cfg!(target_arch = "x86_64") { 62 } else { 183 }, 0]);
            let _ = verdict(&bytes);
        }
    }
}
