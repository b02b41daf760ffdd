//! What is being done, for whoever waits at a terminal: a line on standard error that goes again.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bioxen_curator::{Curator, Progress as RockStep};
use bioxen_vm_core::files::{Files, Moved};
#[cfg(feature = "xcpng")]
use bioxen_vm_xcpng::{Progress, StageState};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::telemetry::is_json;

/// How many columns the line takes at most: eyes do not like to travel further.
const WIDEST: usize = 100;

/// How often the line tells how far a copy is.
const OFTEN: Duration = Duration::from_millis(200);

/// Takes what stands in the last line of a terminal away.
const CLEAR_LINE: &str = "\r\x1b[K";

/// Whether something stands in the last line of the terminal, for which it has to make way.
static IS_DRAWN: AtomicBool = AtomicBool::new(false);

/// Whether a program has left the last line of the terminal unfinished, which is not ours to take away.
static IS_UNFINISHED: AtomicBool = AtomicBool::new(false);

/// Puts a text in the place of what is drawn; what does not end its line is then what is drawn, as much
/// of it as one row has room for.
pub(super) fn draw(text: &str) {
    if text.is_empty() {
        return make_way();
    }
    let above = text.rfind('\n').map_or(0, |end| end + 1);
    let (above, line) = text.split_at(above);
    let line = shortened(line, room());
    let mut stderr = io::stderr().lock();
    IS_DRAWN.store(!line.is_empty(), Ordering::Relaxed);
    let begin = match IS_UNFINISHED.swap(false, Ordering::Relaxed) {
        true => "\n",
        false => CLEAR_LINE,
    };
    // There is nobody left to tell when even this cannot be written.
    let _ = stderr.write_all(format!("{begin}{above}{line}").as_bytes());
}

/// How many columns there are for what is drawn. What went on in a second row of the terminal could not be
/// taken away: neither what is drawn may, nor the `^C` that the terminal itself writes behind it, and some
/// begin that row once the last column is taken.
pub(super) fn room() -> usize {
    let columns = terminal_size::terminal_size_of(io::stderr());
    let columns = columns.map_or(80, |(width, _)| usize::from(width.0));
    columns.saturating_sub("^C ".len()).min(WIDEST)
}

/// Notes how the last line of what was written to the terminal stands there.
pub(super) fn wrote(piece: &[u8]) {
    if let Some(last) = piece.last() {
        IS_UNFINISHED.store(*last != b'\n', Ordering::Relaxed);
    }
}

/// Takes away what is drawn, which is drawn again by and by.
pub(super) fn make_way() {
    let mut stderr = io::stderr().lock();
    if IS_DRAWN.swap(false, Ordering::Relaxed) {
        // As above.
        let _ = stderr.write_all(CLEAR_LINE.as_bytes());
    }
}

/// Standard error, on which what is drawn makes way for what is written.
#[derive(Debug)]
pub(super) struct Stderr(io::Stderr);

impl Stderr {
    pub(super) fn new() -> Self {
        Self(io::stderr())
    }
}

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Held all the while, or something might be drawn in between.
        let mut stderr = self.0.lock();
        make_way();
        wrote(bytes);
        stderr.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// The line.
pub(super) struct Line {
    is_drawn: bool,
    begun: Option<(String, Instant)>,
}

impl Line {
    pub(super) fn new() -> Self {
        Self {
            is_drawn: !is_json() && io::stderr().is_terminal(),
            begun: None,
        }
    }

    /// Whether there is a terminal to draw it on.
    pub(super) fn is_drawn(&self) -> bool {
        self.is_drawn
    }

    pub(super) fn begin(&mut self, what: String) {
        self.begun = Some((what, Instant::now()));
        self.draw();
    }

    /// Tells how long it has taken by now.
    pub(super) fn draw(&self) {
        let Some((what, begun)) = self.begun.as_ref().filter(|_| self.is_drawn) else {
            return;
        };
        let seconds = match begun.elapsed().as_secs() {
            0 => String::new(),
            seconds => format!(" ({seconds} s)"),
        };
        let room = room().saturating_sub(seconds.len());
        draw(&format!("{}{seconds}", shortened(what, room)));
    }

    /// Makes way for something else on the terminal.
    pub(super) fn clear(&mut self) {
        if self.begun.take().is_some() && self.is_drawn {
            make_way();
        }
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.clear();
    }
}

/// As much of a text as there is room for: its begin and its end, which tell most of a name.
fn shortened(text: &str, room: usize) -> String {
    let Some(room_for_parts) = room.checked_sub(1) else {
        return String::new();
    };
    if text.width() <= room {
        return text.to_owned();
    }
    let end_room = room_for_parts / 2;
    let begin = fitting(text.chars(), room_for_parts - end_room);
    let end = fitting(text.chars().rev(), end_room);
    format!("{}…{}", &text[..begin], &text[text.len() - end..])
}

/// How many bytes the first letters have that fit.
fn fitting(letters: impl Iterator<Item = char>, room: usize) -> usize {
    let mut width = 0;
    let fitting = letters.take_while(|letter| {
        width += letter.width().unwrap_or(0);
        width <= room
    });
    fitting.map(char::len_utf8).sum()
}

/// How often the line tells how long something has taken.
pub(super) fn seconds() -> tokio::time::Interval {
    tokio::time::interval(Duration::from_secs(1))
}

/// Does work on VMs of a pool, and tells their stages meanwhile. The work is boxed, here and below, as it
/// would be there once for each function that it is handed to.
#[cfg(feature = "xcpng")]
pub(super) fn told<T>(
    stages: Receiver<Progress>,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let line = |step: Progress| match step.state {
        StageState::Started => Some(format!("VM {}: {}", step.vm, step.stage)),
        _ => None,
    };
    shown(stages, line, Box::pin(work))
}

/// Does work on rocks, and tells what is done meanwhile.
pub(super) fn installing<T>(
    curator: &Curator,
    work: impl Future<Output = T>,
) -> impl Future<Output = T> {
    let line = |step: RockStep| match step {
        RockStep::Started { rock, number, of } => {
            Some(format!("installing {rock} ({number} of {of})"))
        }
        RockStep::Finished { .. } => None,
        step => Some(step.to_string()),
    };
    shown(curator.subscribe(), line, Box::pin(work))
}

/// Does work of one stage, and tells how long it has taken meanwhile.
#[cfg(feature = "xcpng")]
pub(super) fn doing<T>(what: &str, work: impl Future<Output = T>) -> impl Future<Output = T> {
    let (news, told) = tokio::sync::broadcast::channel(1);
    // It is told once somebody listens, and then no more: the sender stays until the work is done.
    let _ = news.send(what.to_owned());
    let work = Box::pin(work);
    async move {
        let done = shown(told, Some, work).await;
        drop(news);
        done
    }
}

/// Copies files, and tells how far that is meanwhile.
pub(super) async fn copying<T>(files: &Files, name: &str, work: impl Future<Output = T>) -> T {
    let progress = files.progress();
    let before = *progress.borrow();
    let tell = async {
        let mut line = Line::new();
        let mut often = tokio::time::interval(OFTEN);
        let mut news = progress.clone();
        // Before the first byte files are looked at, which says nothing of the way that they take.
        let mut moving: Option<Instant> = None;
        while line.is_drawn() {
            tokio::select! {
                _ = often.tick() => {}
                Ok(_) = news.wait_for(|now| sent(now) > sent(&before)), if moving.is_none() => {
                    moving = Some(Instant::now());
                }
            }
            let took = moving.map_or(Duration::ZERO, |begun| begun.elapsed());
            let told = so_far(&before, &progress.borrow(), took);
            let room = room().saturating_sub(told.width());
            line.begin(format!("{}{told}", shortened(name, room)));
        }
        std::future::pending().await
    };
    tokio::select! {
        biased;
        done = Box::pin(work) => done,
        never = tell => never,
    }
}

/// How many bytes have come in, and were not there before.
fn sent(moved: &Moved) -> u64 {
    moved.bytes.saturating_sub(moved.resumed)
}

/// How far a copy is whose bytes have been coming in for this long: what follows its name.
fn so_far(before: &Moved, now: &Moved, took: Duration) -> String {
    let since = |now: u64, before: u64| now.saturating_sub(before);
    let (bytes, total) = (
        since(now.bytes, before.bytes),
        since(now.total, before.total),
    );
    let (files, all) = (
        since(now.files, before.files),
        since(now.total_files, before.total_files),
    );
    let sent = since(sent(now), sent(before));
    if all == 0 {
        return ": looking at what is there".to_owned();
    }
    let files = match all {
        1 => String::new(),
        _ => format!(", {files} of {all} files"),
    };
    let rate = match took.as_secs_f64() {
        seconds if seconds < 0.5 || sent == 0 => String::new(),
        seconds => format!(", {}/s", size(sent as f64 / seconds)),
    };
    let (bytes, total) = (size(bytes as f64), size(total as f64));
    format!(": {bytes} of {total}{files}{rate}")
}

fn size(bytes: f64) -> String {
    let units = [(3, "GiB"), (2, "MiB"), (1, "KiB")];
    let unit = units
        .into_iter()
        .map(|(power, unit)| (1024_f64.powi(power), unit))
        .find(|(one, _)| bytes >= *one);
    match unit {
        Some((one, unit)) => format!("{:.1} {unit}", bytes / one),
        None => format!("{bytes:.0} bytes"),
    }
}

/// Does work, and shows meanwhile what is told of it: of each thing the line that it makes, if it does.
async fn shown<N: Clone, T>(
    mut news: Receiver<N>,
    text: impl Fn(N) -> Option<String>,
    work: impl Future<Output = T>,
) -> T {
    let tell = async {
        let mut line = Line::new();
        let mut seconds = seconds();
        while line.is_drawn() {
            tokio::select! {
                told = news.recv() => match told.map(&text) {
                    Ok(Some(text)) => line.begin(text),
                    Ok(None) => line.clear(),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => break,
                },
                _ = seconds.tick() => line.draw(),
            }
        }
        drop(line);
        std::future::pending().await
    };
    tokio::select! {
        biased;
        done = work => done,
        never = tell => never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(bytes: u64, total: u64, files: u64, total_files: u64) -> Moved {
        let mut moved = Moved::default();
        (moved.bytes, moved.total) = (bytes, total);
        (moved.files, moved.total_files) = (files, total_files);
        moved
    }

    #[test]
    fn a_copy_tells_its_bytes_its_files_and_its_rate() {
        let (none, second) = (Moved::default(), Duration::from_secs(2));
        let told = |now: &Moved| so_far(&none, now, second);
        assert_eq!(told(&none), ": looking at what is there");
        assert_eq!(told(&moved(0, 1000, 0, 1)), ": 0 bytes of 1000 bytes");
        let half = moved(3 << 20, 6 << 20, 0, 1);
        assert_eq!(told(&half), ": 3.0 MiB of 6.0 MiB, 1.5 MiB/s");
        let folder = moved(2048, 3 << 30, 2, 7);
        assert_eq!(
            told(&folder),
            ": 2.0 KiB of 3.0 GiB, 2 of 7 files, 1.0 KiB/s"
        );
        // What an earlier copy has brought is there, but did not come in this time.
        let mut resumed = half;
        resumed.resumed = 2 << 20;
        assert_eq!(told(&resumed), ": 3.0 MiB of 6.0 MiB, 512.0 KiB/s");
        let next = moved(4 << 20, 7 << 20, 1, 2);
        let told = so_far(&half, &next, Duration::ZERO);
        assert_eq!(told, ": 1.0 MiB of 1.0 MiB");
    }

    #[test]
    fn a_line_stays_in_its_row_and_shows_how_its_text_begins_and_ends() {
        assert_eq!(shortened("abcd", 4), "abcd");
        assert_eq!(shortened("reads_of_lane_1.fq", 9), "read…1.fq");
        assert_eq!(shortened("abcde", 4), "ab…e");
        assert_eq!(shortened("äöüäö", 3), "ä…ö");
        assert_eq!(shortened("日本語", 5), "日…語");
        assert_eq!(shortened("abc", 1), "…");
        assert_eq!(shortened("abc", 0), "");
    }
}
