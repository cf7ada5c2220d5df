//! Gives memory back that was needed to start and to load a model, and hardly again: program pages and free heap.
//!
//! Of the program touches only its own text and constants, and of these only what was never written: the kernel reads
//! such a page from its cache again when it is needed. Of the heap only what is free. Called once a process is ready;
//! changes nothing it computes.

#![expect(unsafe_code, reason = "madvise, on pages that are proven clean, and malloc_trim are unsafe calls")]

use std::ffi::c_void;
use std::fs;
use std::ptr::NonNull;

#[cfg(target_env = "gnu")]
use nix::libc;
use nix::sys::mman::{MmapAdvise, madvise};

/// A mapping as `/proc/self/smaps` describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mapping {
    start: usize,
    end: usize,
    /// Not writable, of this program's file, and without a page that was ever written: such a page is anonymous.
    /// (Dirty pages say nothing: the file itself may just have been installed.)
    is_clean_program: bool,
}

/// Gives the pages back; returns how many bytes of address space that covers. Where the kernel tells nothing, nothing
/// is done.
pub fn release_program_pages() -> usize {
    let program =
        fs::read_link("/proc/self/exe").ok().and_then(|path| path.into_os_string().into_string().ok());
    let (Some(program), Ok(smaps)) = (program, fs::read_to_string("/proc/self/smaps")) else { return 0 };
    let mut released = 0;
    for mapping in mappings(&smaps, &program).into_iter().filter(|mapping| mapping.is_clean_program) {
        let length = mapping.end - mapping.start;
        let Some(start) = NonNull::new(std::ptr::without_provenance_mut::<c_void>(mapping.start)) else {
            continue;
        };
        // SAFETY: the range is one mapping of this process, read-only, backed by the program's file and without
        // anonymous pages, so dropping its pages loses nothing: the next access reads the same bytes from
        // the file. Nothing can make it writable meanwhile: no code here calls mprotect on the program.
        if unsafe { madvise(start, length, MmapAdvise::MADV_DONTNEED) }.is_ok() {
            released += length;
        }
    }
    released
}

/// Gives free pages of the heap back, such as those that plans took while they were made. Where the allocator is not
/// glibc's, nothing is done.
pub fn release_free_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: glibc names no condition: it takes its own locks and gives back only pages without a live allocation. It
    // takes a number of bytes to keep and no pointer.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn mappings(smaps: &str, program: &str) -> Vec<Mapping> {
    let mut found: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or("");
        if let Some((start, end)) =
            first.split_once('-').and_then(|(start, end)| Some((hex(start)?, hex(end)?)))
        {
            let is_fixed =
                words.next().is_some_and(|rights| rights.starts_with("r-") && rights.ends_with('p'));
            let is_program = line.ends_with(program);
            found.push(Mapping { start, end, is_clean_program: is_fixed && is_program });
        } else if matches!(first, "Anonymous:" | "Swap:")
            && words.next() != Some("0")
            && let Some(mapping) = found.last_mut()
        {
            mapping.is_clean_program = false;
        }
    }
    found
}

fn hex(text: &str) -> Option<usize> {
    usize::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 r--p 00000000 fe:00 1 /bin/d
Anonymous:             0 kB
2000-5000 r-xp 00001000 fe:00 1 /bin/d
Anonymous:             0 kB
5000-6000 r--p 00004000 fe:00 1 /bin/d
Anonymous:             4 kB
6000-7000 rw-p 00005000 fe:00 1 /bin/d
7000-8000 r-xp 00000000 fe:00 2 /lib/c
";

    #[test]
    fn only_clean_read_only_pages_of_the_program_are_chosen() {
        let chosen: Vec<_> = mappings(SMAPS, "/bin/d")
            .into_iter()
            .filter(|m| m.is_clean_program)
            .map(|m| (m.start, m.end))
            .collect();
        assert_eq!(chosen, [(0x1000, 0x2000), (0x2000, 0x5000)]);
    }

    #[test]
    fn what_lives_stays_when_the_free_heap_is_given_back() {
        let blocks: Vec<Vec<u8>> = (0..=255).map(|byte| vec![byte; 50_000]).collect();
        let kept: Vec<Vec<u8>> = blocks.into_iter().step_by(2).collect();
        release_free_heap();
        for (block, byte) in kept.iter().zip((0..=255_u8).step_by(2)) {
            assert!(block.len() == 50_000 && block.iter().all(|found| *found == byte));
        }
    }

    #[test]
    fn a_program_goes_on_after_its_pages_were_released() {
        assert!(release_program_pages() > 0);
        assert_eq!(format!("{:.3}", std::hint::black_box(2.0_f64).sqrt()), "1.414");
    }
}
