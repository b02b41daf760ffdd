//! Tells apart what a program writes and what its driver writes on the same stream.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;

use bytes::{Bytes, BytesMut};

/// The longest frame that is kept: the most that a driver sends, and some more.
const LONGEST: usize = 17 * 1024 * 1024;

/// The longest head of a frame after its mark: a kind, a length and a line break.
const LONGEST_HEAD: usize = 24;

/// A word that no program can guess, so that none can imitate its driver by accident or with data
/// from outside. (A program that looks into its own process can, and fools only who asked it.)
#[derive(Clone, PartialEq, Eq)]
pub struct Mark(String);

impl Mark {
    /// Makes a new one.
    #[must_use]
    pub fn new() -> Self {
        // Keys from the system's random numbers, and a keyed hash that does not give them away.
        let half = || RandomState::new().hash_one(0_u8);
        Self(format!("{:016x}{:016x}", half(), half()))
    }

    /// The word.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Mark {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

/// A part of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// What the program wrote.
    Raw(Bytes),
    /// What the driver wrote: a kind, and its data.
    Frame(u8, Bytes),
}

/// Takes frames out of a stream.
///
/// A frame is the byte 1, the mark, a letter for its kind, the length of its data in decimal, a
/// line break, and the data.
#[derive(Debug)]
pub struct Frames {
    /// The byte 1 and the word.
    start: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Holds what may be the start of a frame.
    Raw(BytesMut),
    /// Kind, what is missing of the data, and the data so far.
    Data(u8, usize, BytesMut),
}

impl Frames {
    /// Looks for frames with this mark.
    #[must_use]
    pub fn new(mark: &Mark) -> Self {
        Self {
            start: format!("\x01{}", mark.0).into(),
            state: State::Raw(BytesMut::new()),
        }
    }

    /// Takes the next piece of the stream apart.
    pub fn take(&mut self, piece: Bytes) -> Vec<Part> {
        let mut parts = Vec::new();
        let mut piece = piece;
        while !piece.is_empty() {
            match &mut self.state {
                State::Data(kind, missing, data) => {
                    let some = piece.split_to(piece.len().min(*missing));
                    *missing -= some.len();
                    data.extend_from_slice(&some);
                    if *missing == 0 {
                        parts.push(Part::Frame(*kind, std::mem::take(data).freeze()));
                        self.state = State::Raw(BytesMut::new());
                    }
                }
                State::Raw(held) => {
                    if !held.is_empty() {
                        held.extend_from_slice(&piece);
                        piece = std::mem::take(held).freeze();
                    }
                    match self.look(&piece) {
                        Look::Nothing => {
                            parts.push(Part::Raw(piece));
                            return parts;
                        }
                        Look::Perhaps(at) => {
                            if at > 0 {
                                parts.push(Part::Raw(piece.split_to(at)));
                            }
                            self.state = State::Raw(BytesMut::from(&piece[..]));
                            return parts;
                        }
                        Look::Frame(at, head, kind, length) => {
                            if at > 0 {
                                parts.push(Part::Raw(piece.split_to(at)));
                            }
                            let _ = piece.split_to(head);
                            if length == 0 {
                                parts.push(Part::Frame(kind, Bytes::new()));
                            } else {
                                self.state = State::Data(kind, length, BytesMut::new());
                            }
                        }
                    }
                }
            }
        }
        parts
    }

    /// What was held back, once the stream has ended.
    #[must_use]
    pub fn rest(&mut self) -> Option<Bytes> {
        match std::mem::replace(&mut self.state, State::Raw(BytesMut::new())) {
            State::Raw(held) if !held.is_empty() => Some(held.freeze()),
            State::Raw(_) | State::Data(..) => None,
        }
    }

    fn look(&self, bytes: &[u8]) -> Look {
        let mut from = 0;
        while let Some(found) = bytes[from..].iter().position(|byte| *byte == 1) {
            let at = from + found;
            let here = &bytes[at..];
            if here.len() < self.start.len() {
                if self.start.starts_with(here) {
                    return Look::Perhaps(at);
                }
            } else if here.starts_with(&self.start) {
                match head(&here[self.start.len()..]) {
                    Head::Frame(size, kind, length) => {
                        return Look::Frame(at, self.start.len() + size, kind, length);
                    }
                    Head::Perhaps => return Look::Perhaps(at),
                    Head::No => {}
                }
            }
            from = at + 1;
        }
        Look::Nothing
    }
}

enum Look {
    Nothing,
    /// From here on it may be a frame.
    Perhaps(usize),
    /// Where it starts, how long its head is, its kind, and the length of its data.
    Frame(usize, usize, u8, usize),
}

enum Head {
    No,
    Perhaps,
    Frame(usize, u8, usize),
}

fn head(bytes: &[u8]) -> Head {
    let line = bytes.iter().take(LONGEST_HEAD).position(|b| *b == b'\n');
    let Some(end) = line else {
        return if bytes.len() < LONGEST_HEAD {
            Head::Perhaps
        } else {
            Head::No
        };
    };
    let Some((kind, digits)) = bytes[..end].split_first() else {
        return Head::No;
    };
    let length = std::str::from_utf8(digits)
        .ok()
        .and_then(|d| d.parse().ok());
    match length.filter(|length| *length <= LONGEST) {
        Some(length) => Head::Frame(end + 1, *kind, length),
        None => Head::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All parts of a stream that comes in pieces of this size, neighbours joined.
    fn parts(mark: &Mark, stream: &[u8], size: usize) -> Vec<Part> {
        let mut frames = Frames::new(mark);
        let mut all: Vec<Part> = stream
            .chunks(size)
            .flat_map(|piece| frames.take(Bytes::copy_from_slice(piece)))
            .collect();
        all.extend(frames.rest().map(Part::Raw));
        let mut joined: Vec<Part> = Vec::new();
        for part in all {
            match (joined.last_mut(), part) {
                (Some(Part::Raw(last)), Part::Raw(next)) => {
                    *last = [&last[..], &next].concat().into()
                }
                (_, part) => joined.push(part),
            }
        }
        joined
    }

    #[test]
    fn frames_come_out_wherever_the_stream_is_cut() {
        let mark = Mark::new();
        let word = mark.as_str();
        let stream = format!("a\x01b\x01{word}V3\nx\ny\x01{word}E0\n\x01{word}Vx\n\x01{word}");
        let expected = [
            Part::Raw("a\x01b".into()),
            Part::Frame(b'V', "x\ny".into()),
            Part::Frame(b'E', Bytes::new()),
            Part::Raw(format!("\x01{word}Vx\n\x01{word}").into()),
        ];
        for size in 1..stream.len() + 1 {
            assert_eq!(parts(&mark, stream.as_bytes(), size), expected, "{size}");
        }
    }

    #[test]
    fn what_cannot_start_a_frame_is_not_held_back() {
        let mut frames = Frames::new(&Mark::new());
        for piece in ["> ", "\x01", "x", "\x01\x02"] {
            let parts = frames.take(piece.into());
            if piece == "\x01" {
                assert_eq!(parts, []);
            } else {
                assert_eq!(parts.len(), 1, "{piece:?}");
            }
        }
        assert_eq!(frames.rest(), None);
    }

    #[test]
    fn marks_differ() {
        assert_ne!(Mark::new(), Mark::new());
    }
}
