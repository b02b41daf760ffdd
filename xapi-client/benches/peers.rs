//! The client beside others, over loopback HTTP, in one run: the official Python client, the npm package
//! `xen-api`, and reqwest with nothing around it. `make bench` installs the peers; without one, its line says so.
//!
//! Every figure is the best of some runs on one machine; only the ratios mean something.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]
#![allow(clippy::unwrap_used, reason = "a panic is how a benchmark fails")]

#[allow(dead_code, reason = "each benchmark uses a part")]
mod support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use serde::Deserialize;
use support::{VMS, envelope, json_body, reference, xml_body};
use xapi_client::api::Host;
use xapi_client::{Client, Ref, SecretString};

const CALLS: usize = 5_000;
const AT_ONCE: usize = 20;
const RUNS: usize = 3;

/// What each of the three cases takes, in seconds.
type Times = [f64; 3];
const CASES: [(&str, usize); 3] = [
    ("records", VMS),
    ("sequential", CALLS),
    ("concurrent", CALLS),
];

fn main() {
    let url = serve();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (client, reqwest) = runtime.block_on(async { (ours(&url).await, bare(&url).await) });
    println!(
        "{VMS} VM records; {CALLS} small calls, one at a time and {AT_ONCE} at once; best of {RUNS}\n"
    );
    println!(
        "{:24} {:>16} {:>16} {:>16}",
        "", "records", "one at a time", "20 at once"
    );
    print("xapi-client", &client, &client);
    print("bare reqwest", &reqwest, &client);
    for (name, peer) in [
        ("XenAPI.py", python(&root, &url)),
        ("npm xen-api", node(&root, &url)),
    ] {
        match peer {
            Ok(times) => print(name, &times, &client),
            Err(reason) => println!("{name:24} left out: {reason}"),
        }
    }
    println!("\nIn brackets: how many times as long as xapi-client.");
}

fn print(name: &str, times: &Times, ours: &Times) {
    let cell = |at: usize| match times[at] {
        time if time.is_nan() => "-".to_owned(),
        time => format!("{time:.3} s ({:.2})", time / ours[at]),
    };
    println!("{name:24} {:>16} {:>16} {:>16}", cell(0), cell(1), cell(2));
}

async fn ours(url: &str) -> Times {
    let client = Client::builder(url)
        .credentials("root", SecretString::from("p"))
        .login()
        .await
        .unwrap();
    let mut best = [f64::INFINITY; 3];
    for _ in 0..RUNS {
        let start = Instant::now();
        let found = client.vm().get_all_records().await.unwrap();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        assert_eq!(found.len(), VMS);
        drop(found);
        let start = Instant::now();
        for _ in 0..CALLS {
            let _: Vec<Ref<Host>> = client.host().get_all().await.unwrap();
        }
        best[1] = best[1].min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        at_once(|| {
            let client = client.clone();
            async move {
                let _: Vec<Ref<Host>> = client.host().get_all().await.unwrap();
            }
        })
        .await;
        best[2] = best[2].min(start.elapsed().as_secs_f64());
    }
    client.close().await.unwrap();
    best
}

/// The same requests with reqwest, and the answers decoded into text and maps.
async fn bare(url: &str) -> Times {
    #[derive(Deserialize)]
    struct Answer<R> {
        result: R,
    }
    // Not used, but reqwest wants one.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .http1_only()
        .tcp_nodelay(true)
        .no_proxy()
        .build()
        .unwrap();
    let url = format!("{url}/jsonrpc");
    let call = move |method: &'static str| {
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":["OpaqueRef:s"]}}"#);
        let sent = client
            .post(&url)
            .header("content-type", "application/json")
            .body(body)
            .send();
        async move { sent.await.unwrap().bytes().await.unwrap() }
    };
    let small = {
        let call = call.clone();
        move || {
            let answer = call("host.get_all");
            async move {
                let answer: Answer<Vec<String>> = serde_json::from_slice(&answer.await).unwrap();
                assert_eq!(answer.result.len(), 1);
            }
        }
    };
    let mut best = [f64::INFINITY; 3];
    for _ in 0..RUNS {
        let start = Instant::now();
        let body = call("VM.get_all_records").await;
        let answer: Answer<BTreeMap<String, xapi_client::api::VmRecord>> =
            serde_json::from_slice(&body).unwrap();
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        assert_eq!(answer.result.len(), VMS);
        drop(answer);
        let start = Instant::now();
        for _ in 0..CALLS {
            small().await;
        }
        best[1] = best[1].min(start.elapsed().as_secs_f64());
        let start = Instant::now();
        at_once(&small).await;
        best[2] = best[2].min(start.elapsed().as_secs_f64());
    }
    best
}

/// Makes all calls, so many at once.
async fn at_once<F: Future<Output = ()> + Send + 'static>(call: impl Fn() -> F) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..CALLS {
        if number >= AT_ONCE {
            tasks.join_next().await.unwrap().unwrap();
        }
        tasks.spawn(call());
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
}

fn python(root: &Path, url: &str) -> Result<Times, String> {
    let program = root.join("target/venv/bin/python");
    // One connection each, so nothing at once.
    peer(
        &program,
        &["xapi-client/benches/peers.py".into()],
        root,
        url,
        &CASES[..2],
    )
}

fn node(root: &Path, url: &str) -> Result<Times, String> {
    let modules = root.join("target/peers");
    if !modules.join("node_modules/xen-api").exists() {
        return Err("not installed; run `make bench-peers`".to_owned());
    }
    let script = ["xapi-client/benches/peers.cjs".into(), modules];
    peer(Path::new("node"), &script, root, url, &CASES)
}

fn peer(
    program: &Path,
    script: &[PathBuf],
    root: &Path,
    url: &str,
    cases: &[(&str, usize)],
) -> Result<Times, String> {
    let mut best = [f64::NAN; 3];
    for (at, (case, count)) in cases.iter().enumerate() {
        for _ in 0..RUNS {
            let output = Command::new(program)
                .args(script)
                .args([url, case, &count.to_string()])
                .current_dir(root)
                .output()
                .map_err(|error| format!("{error}; run `make bench-peers`"))?;
            let text = String::from_utf8_lossy(&output.stdout);
            let time: f64 = text.trim().parse().map_err(|_| {
                let text = String::from_utf8_lossy(&output.stderr);
                let said = text.lines().find(|line| line.contains("Error"));
                said.unwrap_or("it says nothing").to_owned()
            })?;
            best[at] = best[at].min(time);
        }
    }
    Ok(best)
}

/// A server that answers both protocols, each connection with a thread as real ones do.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Arc::new((json_body(), xml_body()));
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, bodies) = (stream.unwrap(), bodies.clone());
            // A client that goes away ends its thread.
            std::thread::spawn(move || answer(&stream, &bodies));
        }
    });
    url
}

fn answer(stream: &TcpStream, bodies: &(Bytes, Bytes)) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    loop {
        let (mut line, mut length, mut is_json) = (String::new(), 0, false);
        loop {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let text = line.trim_end().to_ascii_lowercase();
            is_json |= text.starts_with("post /jsonrpc");
            if let Some(number) = text.strip_prefix("content-length:") {
                length = number.trim().parse().ok()?;
            }
            if text.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).ok()?;
        let body = String::from_utf8(body).ok()?;
        let object = reference(1);
        // npm xen-api asks for the names of the methods first.
        let is_list = ["host.get_all<", "host.get_all\"", "system.listMethods"]
            .iter()
            .any(|name| body.contains(name));
        let (small_json, small_xml) = if is_list {
            (
                format!(r#"["{object}"]"#),
                format!("<value><array><data><value>{object}</value></data></array></value>"),
            )
        } else if body.contains("get_all_records") {
            (
                format!(r#"{{"{object}":{{"uuid":"u"}}}}"#),
                format!(
                    "<value><struct><member><name>{object}</name><value><struct></struct></value></member></struct></value>"
                ),
            )
        } else {
            (format!(r#""{object}""#), format!("<value>{object}</value>"))
        };
        let (kind, answer) = match (is_json, body.contains("VM.get_all_records")) {
            (true, true) => ("application/json", bodies.0.clone()),
            (false, true) => ("text/xml", bodies.1.clone()),
            (true, false) => (
                "application/json",
                format!(r#"{{"jsonrpc":"2.0","result":{small_json},"id":1}}"#).into(),
            ),
            (false, false) => ("text/xml", envelope(&small_xml).into()),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: keep-alive\r\n\r\n",
            answer.len()
        );
        if answer.len() < 10_000 {
            let whole = [head.as_bytes(), &answer].concat();
            writer.write_all(&whole).ok()?;
        } else {
            writer.write_all(head.as_bytes()).ok()?;
            writer.write_all(&answer).ok()?;
        }
    }
}
