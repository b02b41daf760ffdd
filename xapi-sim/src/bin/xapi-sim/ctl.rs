//! `xapi-sim ctl`: what can be done to a pool that another `xapi-sim` serves.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::{Failed, write_out};

#[derive(Debug, Args)]
pub(crate) struct Ctl {
    /// File that `xapi-sim serve` has written for this: where it says `control:`.
    #[arg(long, value_name = "FILE", env = "XAPI_SIM_CONTROL")]
    file: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Adds, lists and clears the rules by which calls fail.
    #[command(subcommand)]
    Fault(Fault),
    /// Adds, lists and clears what plugins of the hosts answer to host.call_plugin.
    #[command(subcommand)]
    Plugin(Plugin),
    /// Restarts the toolstack of the coordinator: sessions and tasks are lost, VMs run on.
    RestartToolstack,
    /// Makes another host the coordinator.
    Failover {
        /// Name, uuid or reference of a host.
        host: String,
    },
    /// Cuts the power of a host.
    CrashHost {
        /// Name, uuid or reference of a host.
        host: String,
    },
    /// Boots a host that is down.
    BootHost {
        /// Name, uuid or reference of a host.
        host: String,
    },
    /// Lets an SR take nothing more, or again what fits.
    FillSr {
        /// Name, uuid or reference of an SR.
        sr: String,
        /// Lets it take disks again.
        #[arg(long)]
        undo: bool,
    },
    /// Moves the clock of the pool, backwards if negative.
    AdvanceClock {
        /// Seconds.
        #[arg(allow_negative_numbers = true)]
        seconds: i64,
    },
    /// Moves the clock of one host against that of the pool; 0 puts it right again.
    SkewClock {
        /// Name, uuid or reference of a host.
        host: String,
        /// Seconds by which it is ahead, negative if behind.
        #[arg(allow_negative_numbers = true)]
        seconds: i64,
    },
    /// Puts a host into emergency mode, or without a code takes it out again.
    Emergency {
        /// Name, uuid or reference of the host; by default the coordinator. Members come to
        /// HOST_MASTER_CANNOT_TALK_BACK or HOST_UNKNOWN_TO_MASTER.
        #[arg(long)]
        host: Option<String>,
        /// The failure that nearly every call gets, HOST_STILL_BOOTING for example.
        code: Option<String>,
        /// Its parameters; HOST_IS_SLAVE has the address of the coordinator.
        params: Vec<String>,
    },
    /// Lists the calls so far.
    Calls,
    /// Counts the calls about each VM.
    CallsPerVm,
    /// Lists objects and sessions that are there now and were not at the start.
    Leaks,
    /// Lists the messages that were asked for in vain.
    Unimplemented,
    /// Makes the pool anew from its model.
    Reset,
}

#[derive(Debug, Subcommand)]
enum Fault {
    /// Adds a rule in the form of a TOML file's [[fault]], as KEY=VALUE: method=VM.clone times=1
    /// fail=SR_BACKEND_FAILURE_44,,"no space",
    Add {
        /// method (of the API, or the path of an HTTP handler: /export) or class, object, after,
        /// times, probability, delay, fail, disconnect, http_status, truncate, slow_body,
        /// expire_session, crash_host, after_effect.
        #[arg(required = true, value_name = "KEY=VALUE")]
        rule: Vec<String>,
    },
    /// Lists the rules in force.
    List,
    /// Removes all rules.
    Clear,
}

#[derive(Debug, Subcommand)]
enum Plugin {
    /// Adds an answer in the form of a TOML file's [[plugin]], as KEY=VALUE: name=zfs.py
    /// function=list_zfs_pools result={}
    Add {
        /// name, function, host, result or fail, and args.NAME for an argument that calls must give.
        #[arg(required = true, value_name = "KEY=VALUE")]
        answer: Vec<String>,
    },
    /// Lists the answers.
    List,
    /// Removes all plugins from the hosts.
    Clear,
}

/// Does it and shows the answer, which is JSON.
pub(crate) async fn run(options: Ctl) -> Result<(), Failed> {
    let (method, path, body) = request(&options.command)?;
    let text = send(&options.file, method, path, body).await?;
    match options.command {
        Command::CallsPerVm if text.trim() == "{}" => {
            eprintln!("xapi-sim: no call so far is about a VM");
            write_out(&text)?;
        }
        _ if text.trim() != "{}" => write_out(&text)?,
        _ => {}
    }
    Ok(())
}

fn request(command: &Command) -> Result<(Method, &'static str, String), Failed> {
    let get = |path| Ok((Method::GET, path, String::new()));
    let post = |path, pairs: &[(&str, String)]| Ok((Method::POST, path, object(pairs)));
    match command {
        Command::Fault(Fault::List) => get("/faults"),
        Command::Fault(Fault::Clear) => Ok((Method::DELETE, "/faults", String::new())),
        Command::Fault(Fault::Add { rule }) => Ok((Method::POST, "/faults", fault(rule)?)),
        Command::Plugin(Plugin::List) => get("/plugins"),
        Command::Plugin(Plugin::Clear) => Ok((Method::DELETE, "/plugins", String::new())),
        Command::Plugin(Plugin::Add { answer }) => Ok((Method::POST, "/plugins", plugin(answer)?)),
        Command::RestartToolstack => post("/restart-toolstack", &[]),
        Command::Failover { host } => post("/fail-over", &[("host", quoted(host))]),
        Command::CrashHost { host } => post("/crash-host", &[("host", quoted(host))]),
        Command::BootHost { host } => post("/boot-host", &[("host", quoted(host))]),
        Command::FillSr { sr, undo } => {
            let full = (!undo).to_string();
            post("/fill-sr", &[("sr", quoted(sr)), ("full", full)])
        }
        Command::AdvanceClock { seconds } => {
            post("/shift-clock", &[("seconds", seconds.to_string())])
        }
        Command::SkewClock { host, seconds } => post(
            "/skew-clock",
            &[("host", quoted(host)), ("seconds", seconds.to_string())],
        ),
        Command::Emergency { host, code, params } => {
            let failure: Vec<String> = code.iter().chain(params).map(|text| quoted(text)).collect();
            let mut pairs = vec![("fail", format!("[{}]", failure.join(",")))];
            pairs.extend(host.iter().map(|host| ("host", quoted(host))));
            post("/emergency", &pairs)
        }
        Command::Calls => get("/calls"),
        Command::CallsPerVm => get("/calls-per-vm"),
        Command::Leaks => get("/leaks"),
        Command::Unimplemented => get("/unimplemented"),
        Command::Reset => post("/reset", &[]),
    }
}

/// A rule as JSON. Which keys take what, the other side knows; here a value looks like what it is.
fn fault(rule: &[String]) -> Result<String, Failed> {
    let mut pairs = Vec::new();
    for entry in rule {
        let (key, value) = pair(entry)?;
        let value = match key {
            "fail" => list(value),
            "method" | "class" | "object" => quoted(value),
            _ if value == "true" || value == "false" => value.to_owned(),
            _ => number(value).unwrap_or_else(|| quoted(value)),
        };
        pairs.push((key, value));
    }
    Ok(object(&pairs))
}

/// A number as JSON has it, which knows no `.2`.
fn number(text: &str) -> Option<String> {
    if let Ok(whole) = text.parse::<i64>() {
        return Some(whole.to_string());
    }
    let number = text.parse().ok().and_then(serde_json::Number::from_f64)?;
    Some(number.to_string())
}

/// An answer of a plugin as JSON. Its values are texts.
fn plugin(answer: &[String]) -> Result<String, Failed> {
    let mut pairs = Vec::new();
    let mut args = Vec::new();
    for entry in answer {
        let (key, value) = pair(entry)?;
        match key.strip_prefix("args.") {
            Some(name) => args.push((name, quoted(value))),
            None if key == "fail" => pairs.push((key, list(value))),
            None => pairs.push((key, quoted(value))),
        }
    }
    if !args.is_empty() {
        pairs.push(("args", object(&args)));
    }
    Ok(object(&pairs))
}

fn pair(entry: &str) -> Result<(&str, &str), Failed> {
    let pair = entry.split_once('=');
    Ok(pair.ok_or_else(|| format!("{entry} is no KEY=VALUE"))?)
}

/// Texts with commas between them as JSON.
fn list(texts: &str) -> String {
    let items: Vec<String> = texts.split(',').map(quoted).collect();
    format!("[{}]", items.join(","))
}

fn object(pairs: &[(&str, String)]) -> String {
    let members = pairs.iter();
    let members: Vec<String> = members
        .map(|(key, value)| format!("{}:{value}", quoted(key)))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

async fn send(file: &Path, method: Method, path: &str, body: String) -> Result<String, Failed> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| format!("cannot read {}: {error}", file.display()))?;
    let mut lines = text.lines();
    let address = lines.next().and_then(|url| url.strip_prefix("http://"));
    let (Some(address), Some(token)) = (address, lines.next()) else {
        let text = format!("{} is no file of xapi-sim serve", file.display());
        return Err(text.into());
    };
    let stream = TcpStream::connect(address).await.map_err(|error| {
        format!("no simulator answers at {address}: {error}; is it still running?")
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(HOST, address)
        .header(AUTHORIZATION, format!("Bearer {token}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))?;
    let response = sender.send_request(request).await?;
    let succeeded = response.status().is_success();
    let body = response.into_body().collect().await?.to_bytes();
    drop(sender);
    connection.await??;
    let text = String::from_utf8_lossy(&body).into_owned();
    if succeeded {
        return Ok(text);
    }
    let error: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let reason = error.get("error").and_then(serde_json::Value::as_str);
    Err(reason.unwrap_or(&text).trim().to_owned().into())
}
