//! With the feature `otel`, spans go to the collector that the environment names.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::process::Command;

/// Takes one request and gives its first line, its headers and its body.
fn take_one(listener: &TcpListener) -> (String, String, Vec<u8>) {
    let (stream, _) = listener.accept().unwrap();
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request).unwrap();
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") && headers != "\r\n" {
        reader.read_line(&mut headers).unwrap();
    }
    let headers = headers.to_lowercase();
    let length = headers
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.unwrap().parse().unwrap()];
    reader.read_exact(&mut body).unwrap();
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    reader.get_mut().write_all(answer.as_bytes()).unwrap();
    (request, headers, body)
}

fn bioxen(endpoint: &str) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_bioxen"))
        .args(["run", "-e", "print(42)", "a-secret-argument"])
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn the_spans_of_a_run_reach_the_collector() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let collector = std::thread::spawn(move || take_one(&listener));
    let output = bioxen(&endpoint);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"42\n");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let (request, headers, body) = collector.join().unwrap();
    assert_eq!(request, "POST /v1/traces HTTP/1.1\r\n");
    assert!(
        headers.contains("content-type: application/x-protobuf"),
        "{headers}"
    );
    let has = |text: &str| body.windows(text.len()).any(|part| part == text.as_bytes());
    for part in ["service.name", "bioxen", "execute", "vm_type", "basic"] {
        assert!(
            has(part),
            "{part} is missing in {}",
            String::from_utf8_lossy(&body)
        );
    }
    assert!(!has("a-secret-argument"));
}

#[test]
fn a_collector_that_is_not_there_costs_a_warning_only() {
    // Nothing listens on the port of a socket that is gone.
    let gone = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let output = bioxen(&format!("http://{gone}"));
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"42\n");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("WARN") || said.contains("ERROR"), "{said}");
}
