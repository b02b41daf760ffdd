//! Where records begin and end in a file, and whether they are whole.

use std::fmt;
use std::io::{BufRead as _, BufReader, Read};
use std::str::FromStr;

use bioxen_vm_core::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

/// How much of a file is read at once, in bytes.
const BUFFER: usize = 256 << 10;

/// What the records of a file are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Sequences, each after a line that begins with `>`.
    Fasta,
    /// Reads with qualities, of four lines or more.
    Fastq,
    /// Lines.
    Lines,
}

impl Format {
    /// What the records are called in messages.
    fn noun(self) -> &'static str {
        match self {
            Self::Lines => "line",
            _ => "record",
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "fasta" => Ok(Self::Fasta),
            "fastq" => Ok(Self::Fastq),
            "lines" => Ok(Self::Lines),
            _ => Err(format!("{text:?} is none of fasta, fastq, lines")),
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fasta => "fasta",
            Self::Fastq => "fastq",
            Self::Lines => "lines",
        })
    }
}

/// Goes through the records of a file, or of a part of one that begins with a record. It holds one
/// line in memory at most, and of FASTA none.
pub(super) struct Records<R> {
    file: BufReader<R>,
    format: Format,
    /// The file as the user calls it.
    name: String,
    record: u64,
    line: u64,
    text: Vec<u8>,
    title: Vec<u8>,
    ends_with_newline: bool,
}

impl<R: Read> Records<R> {
    pub(super) fn new(file: R, format: Format, name: impl Into<String>) -> Self {
        Self {
            file: BufReader::with_capacity(BUFFER, file),
            format,
            name: name.into(),
            record: 0,
            line: 0,
            text: Vec::new(),
            title: Vec::new(),
            ends_with_newline: true,
        }
    }

    /// Passes the next record and gives its length in bytes, blank lines before it included; `None`
    /// at the end.
    pub(super) fn pass(&mut self) -> Result<Option<u64>> {
        self.next(None)
    }

    /// The same, and adds the bytes of the record to these.
    pub(super) fn take(&mut self, into: &mut Vec<u8>) -> Result<Option<u64>> {
        self.next(Some(into))
    }

    /// The name of the last record: its title up to the first white space.
    pub(super) fn id(&self) -> &[u8] {
        let end = self.title.iter().position(u8::is_ascii_whitespace);
        &self.title[..end.unwrap_or(self.title.len())]
    }

    /// Whether the last line that was read has a line end.
    pub(super) fn ends_with_newline(&self) -> bool {
        self.ends_with_newline
    }

    /// An error that says where we are.
    pub(super) fn refuse(&self, reason: impl fmt::Display) -> Error {
        let place = match self.format {
            Format::Fasta | Format::Fastq if self.record > 0 => {
                format!("{}: record {}, line {}", self.name, self.record, self.line)
            }
            _ => format!("{}: line {}", self.name, self.line),
        };
        Error::new(ErrorKind::Config, format!("{place}: {reason}"))
    }

    /// Where the records are read from.
    pub(super) fn source(&self) -> &R {
        self.file.get_ref()
    }

    /// The file as the user calls it.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    fn next(&mut self, keep: Option<&mut Vec<u8>>) -> Result<Option<u64>> {
        match self.format {
            Format::Lines => self.next_line(keep),
            Format::Fasta => self.next_fasta(keep),
            Format::Fastq => self.next_fastq(keep),
        }
    }

    fn next_line(&mut self, keep: Option<&mut Vec<u8>>) -> Result<Option<u64>> {
        let length = match keep {
            Some(kept) => self.keep_line(kept)?,
            None => self.skip_line()?,
        };
        self.record += u64::from(length > 0);
        Ok((length > 0).then_some(length))
    }

    fn next_fasta(&mut self, mut keep: Option<&mut Vec<u8>>) -> Result<Option<u64>> {
        let mut length = 0;
        // What stands before the first header can only be blank.
        loop {
            let Some(first) = self.peek()? else {
                return Ok(None);
            };
            if first == b'>' {
                break;
            }
            let mut line = Vec::new();
            length += self.keep_line(&mut line)?;
            if !line.trim_ascii().is_empty() {
                return Err(self.refuse(match first {
                    b'@' => "this looks like FASTQ; say so with the format fastq (--by fastq)"
                        .to_owned(),
                    _ => format!(
                        "sequence before the first header, {:?}; a header begins with '>'",
                        shown(&line)
                    ),
                }));
            }
        }
        self.record += 1;
        let mut header = std::mem::take(&mut self.text);
        header.clear();
        length += self.keep_line(&mut header)?;
        self.set_title(&header);
        if let Some(kept) = keep.as_deref_mut() {
            kept.extend_from_slice(&header);
        }
        self.text = header;
        while self.peek()?.is_some_and(|first| first != b'>') {
            length += match keep.as_deref_mut() {
                Some(kept) => self.keep_line(kept)?,
                None => self.skip_line()?,
            };
        }
        Ok(Some(length))
    }

    fn next_fastq(&mut self, keep: Option<&mut Vec<u8>>) -> Result<Option<u64>> {
        let mut whole = Whole { keep, length: 0 };
        loop {
            if !self.fastq_line(&mut whole)? {
                return Ok(None);
            }
            if !self.text.is_empty() {
                break;
            }
        }
        self.record += 1;
        if self.text[0] != b'@' {
            return Err(self.refuse(format!(
                "the title of a record begins with '@', and this is {:?}",
                shown(&self.text)
            )));
        }
        let title = std::mem::take(&mut self.text);
        self.set_title(&title);
        self.text = title;
        let mut letters = 0;
        loop {
            if !self.fastq_line(&mut whole)? {
                return Err(self.refuse("the record is cut short: no line with '+' follows"));
            }
            match &self.text[..] {
                [b'+', again @ ..] if again.is_empty() || again == self.title => break,
                [b'+', ..] => {
                    return Err(self.refuse("the title after '+' differs from that after '@'"));
                }
                line => letters += line.len(),
            }
        }
        let mut qualities = 0;
        if letters == 0 && matches!(self.peek()?, Some(b'\n' | b'\r')) {
            // The qualities of a read without letters.
            self.fastq_line(&mut whole)?;
        }
        while qualities < letters {
            if !self.fastq_line(&mut whole)? {
                return Err(self.refuse(format!(
                    "the record is cut short: {qualities} qualities for {letters} letters"
                )));
            }
            qualities += self.text.len();
        }
        if qualities > letters {
            return Err(self.refuse(format!("{qualities} qualities for {letters} letters")));
        }
        Ok(Some(whole.length))
    }

    /// Reads a line without its end into `self.text`; false at the end of the file.
    fn fastq_line(&mut self, whole: &mut Whole<'_>) -> Result<bool> {
        let mut text = std::mem::take(&mut self.text);
        text.clear();
        let length = self.keep_line(&mut text)?;
        whole.length += length;
        if let Some(kept) = whole.keep.as_deref_mut() {
            kept.extend_from_slice(&text);
        }
        let end = text.trim_ascii_end().len();
        text.truncate(end);
        self.text = text;
        Ok(length > 0)
    }

    fn set_title(&mut self, header: &[u8]) {
        self.title.clear();
        self.title.extend_from_slice(header[1..].trim_ascii_end());
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        let buffer = self.file.fill_buf();
        match buffer.map(|buffer| buffer.first().copied()) {
            Ok(first) => Ok(first),
            Err(error) => Err(self.unreadable(error)),
        }
    }

    fn keep_line(&mut self, into: &mut Vec<u8>) -> Result<u64> {
        let read = self.file.read_until(b'\n', into);
        let length = read.map_err(|error| self.unreadable(error))?;
        if length > 0 {
            self.line += 1;
            self.ends_with_newline = into.last() == Some(&b'\n');
        }
        Ok(length as u64)
    }

    fn skip_line(&mut self) -> Result<u64> {
        let mut length = 0;
        loop {
            let buffer = match self.file.fill_buf() {
                Ok(buffer) => buffer,
                Err(error) => return Err(self.unreadable(error)),
            };
            if buffer.is_empty() {
                break;
            }
            let room = buffer.len();
            let last = buffer[room - 1];
            // Not beyond the buffer, so that its last byte tells whether the line ended.
            let skipped = (&mut self.file).take(room as u64).skip_until(b'\n');
            let skipped = skipped.map_err(|error| self.unreadable(error))?;
            length += skipped as u64;
            self.ends_with_newline = skipped < room || last == b'\n';
            if self.ends_with_newline {
                break;
            }
        }
        self.line += u64::from(length > 0);
        Ok(length)
    }

    fn unreadable(&self, error: std::io::Error) -> Error {
        Error::new(
            ErrorKind::Unavailable,
            format!(
                "cannot read {} ({} {})",
                self.name,
                self.format.noun(),
                self.record + 1
            ),
        )
        .with_source(error)
    }
}

/// The bytes of a record, lines with their ends.
struct Whole<'k> {
    keep: Option<&'k mut Vec<u8>>,
    length: u64,
}

/// The beginning of a line, for a message.
fn shown(line: &[u8]) -> String {
    let line = line.trim_ascii_end();
    String::from_utf8_lossy(&line[..line.len().min(40)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(format: Format, text: &str) -> Result<Vec<u64>> {
        let mut records = Records::new(text.as_bytes(), format, "x");
        let mut lengths = Vec::new();
        while let Some(length) = records.pass()? {
            lengths.push(length);
        }
        let mut again = Records::new(text.as_bytes(), format, "x");
        let mut kept = Vec::new();
        while again.take(&mut kept)?.is_some() {}
        let sum: u64 = lengths.iter().sum();
        // Blank lines before the first record of FASTA are not kept.
        assert!(
            text.as_bytes()
                .windows(kept.len().max(1))
                .any(|part| part == kept)
                || sum == 0
        );
        Ok(lengths)
    }

    #[test]
    fn records_end_where_the_next_begins() {
        for (format, text, expected) in [
            (Format::Lines, "a\n\nbc", &[2, 1, 2][..]),
            (Format::Lines, "", &[]),
            (Format::Fasta, ">a\nAC\nGT\n>b\n>c\nA", &[9, 3, 4]),
            (Format::Fasta, "\n\r\n>a\r\nAC\r\n\r\n", &[13]),
            (Format::Fastq, "@a\nAC\n+\nII\n@b\nA\n+b\n@\n", &[11, 10]),
            // Qualities may begin with what begins titles, and sequences have several lines.
            (
                Format::Fastq,
                "@a\nAC\nG\n+\n@+\n@\n\n@b\n\n+\n\n",
                &[15, 8],
            ),
            (Format::Fastq, "@a\r\nA\r\n+a\r\nI", &[12]),
        ] {
            assert_eq!(lengths(format, text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn the_name_of_a_record_is_its_title_up_to_white_space() {
        for (format, text) in [
            (Format::Fasta, ">r1/1 left\nA\n"),
            (Format::Fastq, "@r1/1 left\nA\n+\nI\n"),
        ] {
            let mut records = Records::new(text.as_bytes(), format, "x");
            records.pass().unwrap();
            assert_eq!(records.id(), b"r1/1");
        }
    }

    #[test]
    fn what_is_no_record_is_refused_with_file_record_and_line() {
        for (format, text, place, reason) in [
            (
                Format::Fasta,
                "\nACGT\n",
                "x: line 2: ",
                "before the first header",
            ),
            (Format::Fasta, "@a\nA\n+\nI\n", "x: line 1: ", "FASTQ"),
            (
                Format::Fastq,
                ">a\nA\n",
                "x: record 1, line 1: ",
                "begins with '@'",
            ),
            (
                Format::Fastq,
                "@a\nA\n+\nI\n@b\nACGT\n",
                "x: record 2, line 6: ",
                "cut short",
            ),
            (
                Format::Fastq,
                "@a\nACGT\n+\nII\n",
                "x: record 1, line 4: ",
                "2 qualities for 4",
            ),
            (
                Format::Fastq,
                "@a\nA\n+\nIII\n",
                "x: record 1, line 4: ",
                "3 qualities for 1",
            ),
            (
                Format::Fastq,
                "@a\nA\n+b\nI\n",
                "x: record 1, line 3: ",
                "differs",
            ),
        ] {
            let error = lengths(format, text).unwrap_err().to_string();
            assert!(
                error.starts_with(place) && error.contains(reason),
                "{text:?}: {error}"
            );
        }
    }

    #[test]
    fn long_lines_are_passed_in_pieces() {
        let line = "A".repeat(3 * BUFFER);
        let text = format!("{line}\n{}\nx", &line[1..]);
        let size = 3 * BUFFER as u64;
        assert_eq!(lengths(Format::Lines, &text).unwrap(), [size + 1, size, 1]);
    }
}
