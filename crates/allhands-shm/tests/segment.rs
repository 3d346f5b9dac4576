//! What makes a segment safe to map, and what is refused.
#![cfg(target_os = "linux")]

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::ptr::null_mut;

use allhands_shm::segment::{OwnSegment, PeerSegment, SEGMENT_MAX, SegmentError};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, ftruncate};
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap, mprotect};
use rustix::process::{Resource, Rlimit, setrlimit};

const LEN: usize = 3 * 4096;

/// The variable that makes this program the process that runs out of something.
const POOR: &str = "ALLHANDS_TEST_POOR";

/// An anonymous file of `len` bytes, sealed in some way.
fn memfd(len: usize, seals: SealFlags) -> OwnedFd {
    let fd = rustix::fs::memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let fd = fd.expect("the test needs a memfd");
    ftruncate(&fd, len as u64).expect("a few pages");
    rustix::fs::fcntl_add_seals(&fd, seals).expect("fresh files take seals");
    fd
}

#[test]
fn what_the_owner_writes_its_peers_see() {
    let own = OwnSegment::create(LEN).unwrap();
    let peer = PeerSegment::map(own.fd(), LEN).unwrap();
    assert_eq!((own.len(), peer.len()), (LEN, LEN));
    for at in [0, 4095, 4096, LEN - 1] {
        // SAFETY: `at` is inside both mappings, and one thread reads and writes.
        let seen = unsafe {
            assert_eq!(peer.base().add(at).read_volatile(), 0, "fresh memory is zero");
            own.base().add(at).write_volatile(at as u8 | 1);
            peer.base().add(at).read_volatile()
        };
        assert_eq!(seen, at as u8 | 1);
    }
}

#[test]
fn nobody_else_writes_or_resizes_a_segment() {
    let own = OwnSegment::create(LEN).unwrap();
    let fd = own.fd().try_clone_to_owned().unwrap();
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: No address is asked for; a mapping that should not come to be would be leaked.
    let writable = unsafe { mmap(null_mut(), LEN, prot, MapFlags::SHARED, &fd, 0) };
    assert_eq!(writable.unwrap_err(), rustix::io::Errno::PERM);
    // SAFETY: As above; the mapping is not used.
    let readable = unsafe { mmap(null_mut(), LEN, ProtFlags::READ, MapFlags::SHARED, &fd, 0) };
    // SAFETY: The range was just mapped, and is nobody's.
    let raised = unsafe { mprotect(readable.unwrap(), LEN, MprotectFlags::WRITE) };
    assert_eq!(raised.unwrap_err(), rustix::io::Errno::ACCESS);

    assert_eq!(ftruncate(&fd, 4096).unwrap_err(), rustix::io::Errno::PERM);
    assert_eq!(ftruncate(&fd, 2 * LEN as u64).unwrap_err(), rustix::io::Errno::PERM);
    let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    assert!(rustix::fs::fallocate(&fd, hole, 0, 4096).is_err(), "a hole was punched");
    assert!(rustix::fs::fcntl_add_seals(&fd, SealFlags::WRITE).is_err(), "seals are sealed");
    let mut file = File::from(fd);
    assert!(file.write_all(b"x").is_err(), "the file was written");
    // The owner still can.
    // SAFETY: The first byte is inside the mapping.
    unsafe { own.base().write_volatile(1) };
}

#[test]
fn memory_that_could_shrink_or_be_written_is_not_mapped() {
    let all = SealFlags::GROW | SealFlags::SHRINK | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
    PeerSegment::map(memfd(LEN, all).as_fd(), LEN).unwrap();
    for missing in all {
        let fd = memfd(LEN, all - missing);
        let error = PeerSegment::map(fd.as_fd(), LEN).unwrap_err();
        assert!(matches!(error, SegmentError::Unsealed), "without {missing:?}: {error}");
    }
}

#[test]
fn lengths_that_make_no_sense_are_refused() {
    let own = OwnSegment::create(LEN).unwrap();
    for len in [LEN + 1, 2 * LEN, SEGMENT_MAX] {
        let error = PeerSegment::map(own.fd(), len).unwrap_err();
        assert!(
            matches!(error, SegmentError::Short { len, expected } if len == LEN as u64 && expected > LEN),
            "{error}"
        );
    }
    for len in [0, SEGMENT_MAX + 1, usize::MAX] {
        let error = PeerSegment::map(own.fd(), len).unwrap_err();
        assert!(matches!(error, SegmentError::Length { .. }), "{error}");
        for made in [OwnSegment::create(len), OwnSegment::reserve(len)] {
            let error = made.unwrap_err();
            assert!(matches!(error, SegmentError::Length { .. }), "{error}");
        }
    }
    // A part of a segment maps as well; a reserved one is allocated within its bounds only.
    assert_eq!(PeerSegment::map(own.fd(), 1).unwrap().len(), 1);
    let reserved = OwnSegment::reserve(LEN).unwrap();
    reserved.allocate(4096, LEN - 4096).unwrap();
    for (from, len) in [(4096, LEN), (LEN, 1), (usize::MAX, 2)] {
        let error = reserved.allocate(from, len).unwrap_err();
        assert!(matches!(error, SegmentError::Length { .. }), "{error}");
    }
}

#[test]
fn what_is_no_memory_is_refused() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(LEN as u64).unwrap();
    let event = allhands_shm::wake::event().unwrap();
    let null = File::open("/dev/null").unwrap();
    let strangers = [file.as_fd(), event.as_fd(), null.as_fd()];
    for fd in strangers {
        let error = PeerSegment::map(fd, LEN).unwrap_err();
        // Files that know no seals say so; those in a memory file system have none.
        let known = matches!(error, SegmentError::System { .. } | SegmentError::Unsealed);
        assert!(known, "{error}");
    }
}

#[test]
fn a_process_without_room_hears_of_it() {
    if std::env::var_os(POOR).is_some() {
        return be_poor();
    }
    let program = std::env::current_exe().unwrap();
    let status = Command::new(program)
        .args(["a_process_without_room_hears_of_it", "--exact", "--test-threads=1"])
        .env(POOR, "1")
        .status();
    assert!(status.unwrap().success(), "the process that ran out of room failed");
}

/// Runs out of address space, then of descriptors.
fn be_poor() {
    let limit = |resource, most| {
        setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).unwrap();
    };
    let own = OwnSegment::create(LEN).unwrap();
    let room = 1 << 30;
    limit(Resource::As, room);
    let error = OwnSegment::reserve(room as usize + 1).unwrap_err();
    assert!(matches!(error, SegmentError::System { what: "map it", .. }), "{error}");
    limit(Resource::Nofile, 3);
    let error = OwnSegment::create(LEN).unwrap_err();
    assert!(matches!(error, SegmentError::System { what: "create it", .. }), "{error}");
    // Mapping needs no descriptor.
    PeerSegment::map(own.fd(), LEN).unwrap();
}
