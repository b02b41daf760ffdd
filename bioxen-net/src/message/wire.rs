//! What passes between a hub and a Lua program: requests in one direction, and for each its answer
//! in the other. `net.lua` is the other side.
//!
//! Each is a frame, a line of its own: `\1`, a number of the program, a number of the request, the
//! length of the body, the body. In the body the bytes NUL, `\1`, newline and backslash are escaped.
//! So where a connection was lost in the middle of a frame, what came of it cannot be taken for one,
//! on neither side: a beginning is too short, and an end has no `\1`. A program waits for its answer
//! before it asks again, and repeats its question when it is told to resume, so that a question or
//! answer that got lost comes again, and one that comes twice is known by its number.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::hub::LONGEST_MESSAGE;

const START: u8 = 1;

/// The longest line: a message all of whose bytes are escaped, a name and numbers.
const LONGEST_LINE: usize = 2 * LONGEST_MESSAGE + (1 << 20);

/// How much is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// The number of a program, and the number of its request.
pub(super) type Id = (u64, u64);

/// Tells a program to repeat its request, if it waits for an answer.
pub(super) const RESUME: Id = (0, 0);

/// A body as a frame.
pub(super) fn frame((run, number): Id, body: &[u8]) -> Vec<u8> {
    let mut line = Vec::with_capacity(body.len() + body.len() / 32 + 64);
    line.push(START);
    line.extend_from_slice(format!("{run} {number} {} ", body.len()).as_bytes());
    let mut plain = 0;
    for (at, byte) in body.iter().enumerate() {
        let escaped = match byte {
            0 => b'0',
            1 => b'1',
            b'\n' => b'n',
            b'\\' => b'\\',
            _ => continue,
        };
        line.extend_from_slice(&body[plain..at]);
        line.extend_from_slice(&[b'\\', escaped]);
        plain = at + 1;
    }
    line.extend_from_slice(&body[plain..]);
    line.push(b'\n');
    line
}

/// The frame in a line, which has no newline; `None` where it is not whole.
pub(super) fn unframe(line: &Bytes) -> Option<(Id, Bytes)> {
    let rest = line.strip_prefix(&[START])?;
    let mut fields = rest.splitn(4, |byte| *byte == b' ');
    let (run, number) = (number(fields.next()?)?, number(fields.next()?)?);
    let length = number_of(fields.next()?)?;
    let body = unescape(line.slice_ref(fields.next()?))?;
    (body.len() == length).then_some(((run, number), body))
}

fn unescape(text: Bytes) -> Option<Bytes> {
    if text.contains(&START) {
        return None;
    }
    if !text.contains(&b'\\') {
        return Some(text);
    }
    let mut plain = BytesMut::with_capacity(text.len());
    let mut rest = &text[..];
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        plain.extend_from_slice(&rest[..at]);
        plain.extend_from_slice(&[match rest.get(at + 1)? {
            b'0' => 0,
            b'1' => 1,
            b'n' => b'\n',
            b'\\' => b'\\',
            _ => return None,
        }]);
        rest = &rest[at + 2..];
    }
    plain.extend_from_slice(rest);
    Some(plain.freeze())
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

fn number_of(digits: &[u8]) -> Option<usize> {
    number(digits)?.try_into().ok()
}

/// What a program asks for: `OP NUMBER LENGTH:`, a name of that length, bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) operation: Bytes,
    /// Milliseconds for most operations; -1: no limit.
    pub(super) number: i64,
    /// A peer or a topic.
    pub(super) name: Bytes,
    pub(super) bytes: Bytes,
}

impl Request {
    pub(super) fn read(body: &Bytes) -> Option<Self> {
        let head = body.iter().position(|byte| *byte == b':')?;
        let mut fields = body[..head].split(|byte| *byte == b' ');
        let operation = body.slice_ref(fields.next()?);
        let number = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let length = number_of(fields.next()?)?;
        let mut name = body.slice(head + 1..);
        let bytes = (length <= name.len()).then(|| name.split_off(length))?;
        Some(Self {
            operation,
            number,
            name,
            bytes,
        })
    }
}

/// The body of an answer: `KIND NUMBER LENGTH LENGTH:`, a name, a topic, bytes.
pub(super) fn answer(kind: &str, number: u64, name: &str, topic: &[u8], bytes: &[u8]) -> Vec<u8> {
    let head = format!("{kind} {number} {} {}:{name}", name.len(), topic.len());
    [head.as_bytes(), topic, bytes].concat()
}

/// Lines out of a stream, with a buffer that is kept.
#[derive(Debug)]
pub(super) struct Lines<R> {
    stream: R,
    buffer: BytesMut,
    /// So many bytes of the buffer have no newline.
    searched: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            searched: 0,
        }
    }

    /// The next line, without its newline; `None` at the end, where a line without a newline is
    /// left out.
    ///
    /// Dropping the future loses no byte.
    pub(super) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            let fresh = &self.buffer[self.searched..];
            if let Some(at) = fresh.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                self.searched = 0;
                line.truncate(line.len() - 1);
                return Ok(Some(line.freeze()));
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST_LINE {
                let text = "a line that does not end";
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            self.buffer.reserve(PIECE);
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    fn one_line(frame: &[u8]) -> Bytes {
        let line = frame.strip_suffix(b"\n").unwrap();
        assert!(!line.contains(&b'\n'));
        Bytes::copy_from_slice(line)
    }

    proptest! {
        #[test]
        fn any_bytes_pass_in_a_frame(body: Vec<u8>, run: u64, number: u64) {
            let line = one_line(&frame((run, number), &body));
            assert!(!line.contains(&0));
            assert_eq!(unframe(&line), Some(((run, number), body.into())));
        }

        #[test]
        fn no_part_of_a_frame_is_taken_for_one(
            body in proptest::collection::vec(any::<u8>(), 1..40),
            cut: proptest::sample::Index,
        ) {
            let line = one_line(&frame((1, 2), &body));
            let cut = 1 + cut.index(line.len() - 1);
            assert_eq!(unframe(&line.slice(..cut)), None);
            assert_eq!(unframe(&line.slice(cut..)), None);
            // And two with a gap between them are not taken for one.
            let gap = [&line[..cut], &line[..]].concat();
            assert_eq!(unframe(&gap.into()), None);
        }

        #[test]
        fn whatever_comes_is_a_frame_or_not(line: Vec<u8>) {
            let line = Bytes::from(line);
            if let Some((_, body)) = unframe(&line) {
                let _ = Request::read(&body);
            }
        }
    }

    #[test]
    fn a_request_has_a_name_and_bytes() {
        let request = Request::read(&Bytes::from_static(b"send 500 2:b1a:b")).unwrap();
        assert_eq!(&request.operation[..], b"send");
        assert_eq!(request.number, 500);
        assert_eq!(
            (&request.name[..], &request.bytes[..]),
            (&b"b1"[..], &b"a:b"[..])
        );
        for bad in ["", "send", "send 1 3:b1", "send x 0:", "send 1 -1:"] {
            assert_eq!(Request::read(&bad.into()), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn lines_come_out_wherever_the_stream_is_cut() {
        let (mut ours, theirs) = tokio::io::duplex(3);
        let write = async move {
            use tokio::io::AsyncWriteExt as _;
            ours.write_all(b"one\n\ntwo and more\nrest").await.unwrap();
        };
        let read = async {
            let mut lines = Lines::new(theirs);
            let mut all = Vec::new();
            while let Some(line) = lines.next().await.unwrap() {
                all.push(line);
            }
            all
        };
        let ((), all) = tokio::join!(write, read);
        assert_eq!(all, ["one", "", "two and more"]);
    }
}
