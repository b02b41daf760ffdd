//! What passes between the owner of a VM and a worker: files and a working directory in one
//! direction, the end of the program in the other.
//!
//! The socket is the standard input of a worker when it starts. Its end is the end of the worker.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How many files a request brings: standard input, output and error.
const FILES: usize = 3;

/// Length of the working directory in a request.
const HEAD: usize = 4;

/// Length of a report: the ending, and whether the worker can be used again.
pub(crate) const REPORT: usize = 5;

/// The bytes of a request.
pub(crate) fn request(cwd: &str) -> Vec<u8> {
    let length = u32::try_from(cwd.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(cwd.as_bytes());
    bytes
}

/// Sends the first bytes of a request, and with them the files. Returns how many bytes were sent.
pub(crate) fn send(
    socket: impl AsFd,
    bytes: &[u8],
    files: &[BorrowedFd<'_>; FILES],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(files));
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL)?)
}

/// What a worker is to run: the working directory and the files.
pub(crate) struct Request {
    pub(crate) cwd: Vec<u8>,
    pub(crate) files: [OwnedFd; FILES],
}

/// Waits for a request; `None` when the owner wants no more.
pub(crate) fn receive(mut socket: &UnixStream) -> io::Result<Option<Request>> {
    let mut head = [0; HEAD];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut head)];
    let got = loop {
        match recvmsg(socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            got => break got?.bytes,
        }
    };
    if got == 0 {
        return Ok(None);
    }
    let files: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    let files = files
        .try_into()
        .map_err(|_| io::Error::other("a request without files"))?;
    socket.read_exact(&mut head[got..])?;
    let mut cwd = vec![0; u32::from_le_bytes(head) as usize];
    socket.read_exact(&mut cwd)?;
    Ok(Some(Request { cwd, files }))
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
