use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How much of the end of a stream is kept, to find the report in: more than any report is long.
const WINDOW: usize = 256;

/// The first bytes of a stream, and a little of its end, where the report is.
#[derive(Debug)]
pub(super) struct Capture {
    kept: BytesMut,
    limit: usize,
    /// What came after the kept bytes, or the last of it when there is a gap.
    rest: BytesMut,
    gap: bool,
}

impl Capture {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            kept: BytesMut::new(),
            limit,
            rest: BytesMut::new(),
            gap: false,
        }
    }

    /// Reads the next piece; `false` at the end of the stream.
    pub(super) async fn read(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> bool {
        let is_full = self.kept.len() == self.limit;
        let buffer = if is_full {
            &mut self.rest
        } else {
            &mut self.kept
        };
        buffer.reserve(64 * 1024);
        // A stream that breaks has nothing more to give, as one that ends.
        if !matches!(stream.read_buf(buffer).await, Ok(1..)) {
            return false;
        }
        if self.kept.len() > self.limit {
            self.rest = self.kept.split_off(self.limit);
        }
        if self.rest.len() > WINDOW {
            self.gap = true;
            self.rest = self.rest.split_off(self.rest.len() - WINDOW);
        }
        true
    }

    /// Whether the report that starts with this word has come.
    pub(super) fn has_report(&self, word: &str) -> bool {
        self.tail(|tail| find(tail, word).is_some())
    }

    /// What was kept, and whether more came than that.
    pub(super) fn finish(mut self) -> (Bytes, bool) {
        let truncated = !self.rest.is_empty();
        self.kept.truncate(self.limit);
        (self.kept.freeze(), truncated)
    }

    /// Takes the report that starts with this word out of the stream.
    pub(super) fn take_report(&mut self, word: &str) -> Option<String> {
        if self.gap {
            let (start, end, report) = find(&self.rest, word)?;
            debug_assert!(start < end, "a report is not empty");
            return Some(report);
        }
        let mut all = std::mem::take(&mut self.kept);
        all.unsplit(std::mem::take(&mut self.rest));
        let window = all.len().saturating_sub(WINDOW);
        let found = find(&all[window..], word).map(|(start, end, report)| {
            let after = all.split_off(window + end);
            all.truncate(window + start);
            all.unsplit(after);
            report
        });
        if all.len() > self.limit {
            self.rest = all.split_off(self.limit);
        }
        self.kept = all;
        found
    }

    fn tail<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        if self.gap || self.rest.is_empty() && self.kept.len() <= WINDOW {
            look(if self.gap { &self.rest } else { &self.kept })
        } else {
            let before = WINDOW.saturating_sub(self.rest.len()).min(self.kept.len());
            look(&[&self.kept[self.kept.len() - before..], &self.rest].concat())
        }
    }
}

/// Where a report starts and ends, and its text without the word.
fn find(bytes: &[u8], word: &str) -> Option<(usize, usize, String)> {
    let mark = format!("\n{word} ");
    let start = bytes
        .windows(mark.len())
        .rposition(|window| window == mark.as_bytes())?;
    let text = start + mark.len();
    let length = bytes[text..].iter().position(|byte| *byte == b'\n')?;
    let report = String::from_utf8_lossy(&bytes[text..text + length]).into_owned();
    Some((start, text + length + 1, report))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn capture(limit: usize, stream: &[u8]) -> Capture {
        let mut capture = Capture::new(limit);
        // Pieces of three bytes, so that no boundary helps.
        for mut piece in stream.chunks(3) {
            while capture.read(&mut piece).await {}
        }
        capture
    }

    #[tokio::test]
    async fn the_report_is_taken_out_wherever_the_limit_falls() {
        let stream = b"some errors\nword 137\nlate";
        for limit in 0..40 {
            let mut capture = capture(limit, stream).await;
            assert!(capture.has_report("word"), "{limit}");
            assert_eq!(capture.take_report("word").as_deref(), Some("137"));
            let (kept, truncated) = capture.finish();
            let expected = b"some errorslate";
            assert_eq!(&kept[..], &expected[..limit.min(15)]);
            assert_eq!(truncated, limit < 15, "{limit}");
        }
    }

    #[tokio::test]
    async fn the_report_is_found_behind_more_output_than_is_kept() {
        let stream = [&b"x".repeat(100_000)[..], b"\nword 0\n"].concat();
        let mut capture = capture(10, &stream).await;
        assert!(capture.has_report("word"));
        assert_eq!(capture.take_report("word").as_deref(), Some("0"));
        assert_eq!(capture.finish(), (Bytes::from_static(b"xxxxxxxxxx"), true));
    }

    #[tokio::test]
    async fn half_a_report_is_none() {
        let mut capture = capture(100, b"text\nword 13").await;
        assert!(!capture.has_report("word"));
        assert_eq!(capture.take_report("word"), None);
        assert_eq!(
            capture.finish(),
            (Bytes::from_static(b"text\nword 13"), false)
        );
    }
}
