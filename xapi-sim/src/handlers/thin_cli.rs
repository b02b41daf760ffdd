//! `POST /cli`: what the program `xe` speaks. Its commands are a program of the server's own, which
//! is not simulated; who speaks the protocol is told so in it.

use super::Trouble;
use crate::http::{Connection, Head};
use crate::world::Shared;

/// The longest command line.
const MAX_BODY: i64 = 200 * 1024;
/// By which both sides know that the other speaks it, and the version of what they speak.
const MAGIC: &[u8] = b"XenSource thin CLI protocol";
const MAJOR: i32 = 0;
const MINOR: i32 = 2;
/// What messages are, in numbers.
const COMMAND: i32 = 9;
const EXIT: i32 = 4;
const PRINT_STDERR: i32 = 16;

/// Answers a command line. Nobody has to log in before: the commands do.
pub(super) async fn serve(
    shared: &Shared,
    head: &Head,
    connection: &mut Connection,
) -> Result<(), Trouble> {
    let refuse = |text: &str| Err(Trouble::Exception(text.to_owned()));
    let Some(length) = head.content_length else {
        return refuse("Failure(\"We require a content-length: HTTP header\")");
    };
    if length > MAX_BODY {
        return refuse("Http_svr.Client_requested_size_over_limit");
    }
    let Ok(length) = usize::try_from(length) else {
        return refuse("Invalid_argument(\"Bytes.create\")");
    };
    connection.read(length).await.ok_or(Trouble::Gone)?;
    connection.write(&greeting()).await?;
    let answer = connection.read(MAGIC.len() + 8).await;
    let answer = answer.ok_or(Trouble::Gone)?;
    let (magic, version) = answer.split_at(MAGIC.len());
    if magic != MAGIC {
        return refuse("Failure(\"Protocol mismatch\")");
    }
    if version[..4] != MAJOR.to_le_bytes() {
        return refuse("Failure(\"Version mismatch\")");
    }
    shared.with(|world| world.log.unimplemented.insert("POST /cli".to_owned()));
    let text = "Error: xapi-sim has none of the commands of xe; use the API\n";
    let length = i32::try_from(text.len()).unwrap_or(i32::MAX);
    let mut told = [COMMAND, PRINT_STDERR, length]
        .map(i32::to_le_bytes)
        .concat();
    told.extend_from_slice(text.as_bytes());
    connection.write(&message(&told)).await?;
    let end = [COMMAND, EXIT, 1].map(i32::to_le_bytes).concat();
    connection.write(&message(&end)).await?;
    Ok(())
}

/// What either side begins with.
fn greeting() -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend([MAJOR, MINOR].map(i32::to_le_bytes).concat());
    bytes
}

/// A message with its length in front.
fn message(content: &[u8]) -> Vec<u8> {
    let length = i32::try_from(content.len()).unwrap_or(i32::MAX);
    let mut bytes = length.to_le_bytes().to_vec();
    bytes.extend_from_slice(content);
    bytes
}
