use std::ops::ControlFlow;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};

use super::{Answer, SessionEvent, Shared, lock};
use crate::lua::{Frames, Mark, Part, read_returned};
use crate::{OutputSink, OutputStream};

/// How much of what comes before the driver speaks is kept, to be told when it never does.
const KEPT: usize = 1000;

/// Takes the output of a session's process apart.
pub(super) struct SessionSink {
    out: Frames,
    err: Frames,
    /// Whether the output of the chunk is complete.
    flushed: bool,
    answer: Option<Answer>,
    said: BytesMut,
    shared: Arc<Shared>,
}

impl SessionSink {
    pub(super) fn new(mark: &Mark, shared: Arc<Shared>) -> Self {
        Self {
            out: Frames::new(mark),
            err: Frames::new(mark),
            flushed: false,
            answer: None,
            said: BytesMut::new(),
            shared,
        }
    }

    /// What came before the driver spoke.
    pub(super) fn before_hello(&self) -> String {
        String::from_utf8_lossy(&self.said).into_owned()
    }

    async fn pass_on(&mut self, stream: OutputStream, piece: Bytes) {
        if self.shared.process.borrow().is_none() {
            let room = KEPT - self.said.len();
            self.said.extend_from_slice(&piece[..piece.len().min(room)]);
            return;
        }
        // Nobody may be attached, and who gave the chunk may have gone.
        let _ = self
            .shared
            .events
            .send(SessionEvent::Output(stream, piece.clone()));
        let output = lock(&self.shared.current)
            .as_ref()
            .map(|current| current.output.clone());
        if let Some(output) = output {
            let _ = output.send((stream, piece)).await;
        }
    }

    fn frame(&mut self, kind: u8, data: &Bytes) {
        let text = || String::from_utf8_lossy(data).into_owned();
        match kind {
            b'H' => {
                let text = text();
                let process = text.split(' ').next().and_then(|pid| pid.parse().ok());
                self.shared.process.send_replace(Some(process.unwrap_or(0)));
            }
            b'S' => self.flushed = true,
            b'E' => self.answer = Some(Answer::Failed(text())),
            b'I' => self.answer = Some(Answer::Incomplete),
            kind => self.answer = Some(Answer::Returned(read_returned(kind, data))),
        }
        if self.flushed
            && let Some(answer) = self.answer.take()
        {
            self.flushed = false;
            if let Some(current) = lock(&self.shared.current).take() {
                let _ = self
                    .shared
                    .events
                    .send(SessionEvent::Answered(answer.clone()));
                let _ = current.answer.send(answer);
            }
        }
    }
}

#[async_trait]
impl OutputSink for SessionSink {
    async fn write(&mut self, stream: OutputStream, piece: Bytes) -> ControlFlow<()> {
        let frames = match stream {
            OutputStream::Stdout => &mut self.out,
            OutputStream::Stderr => &mut self.err,
        };
        for part in frames.take(piece) {
            match part {
                Part::Raw(piece) => self.pass_on(stream, piece).await,
                Part::Frame(kind, data) => self.frame(kind, &data),
            }
        }
        ControlFlow::Continue(())
    }
}
