//! Who is on the other side of a Unix socket.

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;

use rustix::process::Pid;

/// A process, as the system vouches for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credentials {
    /// Its number; `None` where it has none here, because it lives in another process namespace. Containers that share a
    /// network often do.
    pub(crate) pid: Option<Pid>,
    /// Its user.
    pub(crate) uid: u32,
}

impl Credentials {
    /// Of the peer of `stream`.
    ///
    /// # Errors
    /// The system does not say.
    pub(crate) fn of(stream: &UnixStream) -> io::Result<Self> {
        let mut found = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        // SAFETY: `found` has room for `len` bytes, any of which make a valid `ucred`, and both outlive the call.
        // `rustix` has this call as well, but for it a process without a number is undefined behaviour.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERCRED,
                (&raw mut found).cast(),
                &raw mut len,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { pid: Pid::from_raw(found.pid), uid: found.uid })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_its_own_peer() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let found = Credentials::of(&stream).unwrap();
        assert_eq!(found.pid, Some(rustix::process::getpid()));
        assert_eq!(found.uid, rustix::process::geteuid().as_raw());
    }
}
