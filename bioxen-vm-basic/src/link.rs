//! What passes between the owner of a VM and a worker: programs in one direction, how they ended in
//! the other.
//!
//! The socket is the standard input of a worker when it starts. Its end is the end of the worker.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// The lengths of the working directory and the program.
const HEAD: usize = 8;

/// Most requests fit into this, and are received at once.
const USUAL: usize = 4 << 10;

/// Length of a report: the ending, and whether the worker can be used again.
pub(crate) const REPORT: usize = 5;

/// The ending of a program that has too many processes. It still runs.
pub(crate) const TOO_MANY_PROCESSES: i32 = i32::MIN;

/// The ending of a program that keeps too much on disk. It still runs.
pub(crate) const TOO_MUCH_ON_DISK: i32 = i32::MIN + 1;

/// The bytes of a request.
pub(crate) fn request(cwd: &Path, program: &[u8]) -> Vec<u8> {
    let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes();
    let cwd = cwd.as_os_str().as_bytes();
    [&length(cwd)[..], &length(program)[..], cwd, program].concat()
}

/// Sends the first bytes of a request, and with them what is to be standard input. Returns how many
/// bytes were sent.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    stdin: Option<BorrowedFd<'_>>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if let Some(stdin) = &stdin {
        control.push(SendAncillaryMessage::ScmRights(std::slice::from_ref(stdin)));
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?)
}

/// What a worker is to run.
pub(crate) struct Request {
    /// The working directory.
    pub(crate) cwd: Vec<u8>,
    /// The frame of the program; empty where standard input brings it.
    pub(crate) program: Vec<u8>,
    /// Standard input, unless it is empty.
    pub(crate) stdin: Option<OwnedFd>,
}

/// Waits for a request; `None` when the owner wants no more.
pub(crate) fn receive(mut socket: &UnixStream) -> io::Result<Option<Request>> {
    let mut bytes = vec![0; USUAL];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let got = loop {
        match recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?.bytes,
        }
    };
    if got == 0 {
        return Ok(None);
    }
    let stdin = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .next();
    let mut complete = |bytes: &mut Vec<u8>, got: usize, wanted: usize| {
        bytes.resize(wanted.max(got), 0);
        socket.read_exact(&mut bytes[got..])
    };
    bytes.truncate(got);
    complete(&mut bytes, got, HEAD)?;
    let length = |at: usize| {
        let length = bytes[at..at + 4].iter().rev();
        length.fold(0, |sum, byte| (sum << 8) | usize::from(*byte))
    };
    let (cwd, program) = (length(0), length(4));
    let got = bytes.len();
    complete(&mut bytes, got, HEAD + cwd + program)?;
    let program = bytes.split_off(HEAD + cwd);
    Ok(Some(Request {
        cwd: bytes.split_off(HEAD),
        program,
        stdin,
    }))
}

/// Tells how a program ended, and whether this worker can run another.
pub(crate) fn report(mut socket: &UnixStream, ending: i32, reusable: bool) -> io::Result<()> {
    let mut bytes = [0; REPORT];
    bytes[..4].copy_from_slice(&ending.to_le_bytes());
    bytes[4] = reusable.into();
    socket.write_all(&bytes)
}

/// Reads a report.
pub(crate) fn read_report(bytes: [u8; REPORT]) -> (i32, bool) {
    let [a, b, c, d, reusable] = bytes;
    (i32::from_le_bytes([a, b, c, d]), reusable != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_any_length_arrives_with_its_input() {
        for length in [0, 1, USUAL, 20 << 10] {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let program = vec![7; length];
            let bytes = request(Path::new("/home"), &program);
            let stdin = std::fs::File::open("/dev/null").unwrap();
            let stdin = (length > 0).then(|| stdin.as_fd());
            assert_eq!(send(&ours, &bytes, stdin).unwrap(), bytes.len());
            let request = receive(&theirs).unwrap().unwrap();
            assert_eq!(
                (&request.cwd[..], request.program),
                (&b"/home"[..], program)
            );
            assert_eq!(request.stdin.is_some(), length > 0);
            drop(ours);
            assert!(receive(&theirs).unwrap().is_none());
        }
    }
}
