//! That nothing is left behind. A program of its own with one test, because it counts what the whole process has.
#![cfg(target_os = "linux")]

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::read_dir;
use std::sync::Arc;

use allhands_shm::layout::Layout;
use allhands_shm::segment::{OwnSegment, PeerSegment};
use allhands_shm::wake::{Barrier, PeerWaker, Wakers, event};

fn names(folder: &str) -> BTreeSet<OsString> {
    read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect()
}

fn mappings() -> usize {
    std::fs::read_to_string("/proc/self/maps").unwrap().matches("memfd:allhands").count()
}

#[test]
fn segments_and_wakers_leave_no_file_no_descriptor_and_no_mapping() {
    let layout = Layout::new(2).unwrap();
    let files = names("/dev/shm");
    let before = read_dir("/proc/self/fd").unwrap().count();
    for _ in 0..20 {
        let own = Arc::new(OwnSegment::create(layout.segment_len()).unwrap());
        let segment = Arc::new(PeerSegment::map(own.fd(), layout.segment_len()).unwrap());
        assert!(mappings() >= 2);
        assert!(PeerSegment::map(own.fd(), usize::MAX).is_err());
        assert!(PeerSegment::map(own.fd(), 2 * layout.segment_len()).is_err());
        let (wake, progress) = (event().unwrap(), event().unwrap());
        let peer = PeerWaker { segment, wake, progress, barrier: Barrier::Local };
        let peers = vec![None, Some(peer)];
        let wakers = Wakers::new(layout, own, event().unwrap(), Barrier::Local, peers);
        wakers.wake(1);
        let new: Vec<_> = names("/dev/shm").difference(&files).cloned().collect();
        assert!(!new.iter().any(|name| name.to_string_lossy().contains("allhands")), "{new:?}");
    }
    assert_eq!(mappings(), 0);
    assert_eq!(read_dir("/proc/self/fd").unwrap().count(), before);
}
