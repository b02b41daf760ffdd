//! A connection by hand.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
}

impl Wire {
    pub(crate) fn over(stream: TcpStream) -> Self {
        Wire {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, request: &[u8]) {
        self.stream.write_all(request).await.unwrap();
    }

    /// The next answer: head and body.
    pub(crate) async fn answer(&mut self) -> String {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                let head = String::from_utf8(self.buffer[..end].to_vec()).unwrap();
                let length: usize = head
                    .lines()
                    .find_map(|line| line.strip_prefix("content-length: "))
                    .unwrap()
                    .parse()
                    .unwrap();
                if self.buffer.len() >= end + 4 + length {
                    let rest = self.buffer.split_off(end + 4 + length);
                    let whole = std::mem::replace(&mut self.buffer, rest);
                    return String::from_utf8_lossy(&whole).into_owned();
                }
            }
            let read = self.stream.read_buf(&mut self.buffer).await.unwrap();
            assert_ne!(
                read,
                0,
                "closed after {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
        }
    }

    /// Sends the rest of a request, ends the sending, and gives everything that comes back.
    pub(crate) async fn send_and_read_to_end(self, body: &[u8]) -> Vec<u8> {
        let (mut from, mut to) = self.stream.into_split();
        let sends = async {
            // A server that refuses may end the connection before it has read everything.
            let _ = to.write_all(body).await;
            let _ = to.shutdown().await;
        };
        let mut answer = self.buffer;
        let reads = async {
            let _ = from.read_to_end(&mut answer).await;
        };
        tokio::join!(sends, reads);
        answer
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(0) | Err(_))
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}
