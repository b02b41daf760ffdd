//! Programs that talk over TCP with LuaSocket, as networked VMs of the library before this one did.
//!
//! They run in a VM that may use the network and has LuaSocket: a guest, or a basic VM with `network`
//! and `lua_executable`. Everything that varies comes to them as an argument, so that no host name or
//! message is ever code. Between VMs of one owner a [`Hub`](super::Hub) does the same and more, and
//! opens no port.

use std::time::Duration;

use bioxen_vm_core::{Error, ErrorKind, Result, Script};

/// A program that listens on a port, greets one client with a line, prints the line that it sends,
/// and ends. It prints `Listening on port …` once clients can connect.
///
/// # Errors
/// Fails with [`ErrorKind::Config`] for a port below 1024.
pub fn server(port: u16) -> Result<Script> {
    check_port(port)?;
    Ok(Script::new(include_str!("socket/server.lua"))
        .with_name("server")
        .arg(port.to_string()))
}

/// A program that connects to such a server, prints its greeting, sends a message, and ends.
///
/// # Errors
/// Fails with [`ErrorKind::Config`] for a port below 1024, for what is neither a host name nor an
/// address, and for a message of several lines.
pub fn client(host: &str, port: u16, message: &str) -> Result<Script> {
    check_port(port)?;
    check_host(host)?;
    if message.contains(['\n', '\r']) {
        return refuse("the message has several lines, and the server reads one".into());
    }
    Ok(Script::new(include_str!("socket/client.lua"))
        .with_name("client")
        .arg(host.to_owned())
        .arg(port.to_string())
        .arg(message.to_owned()))
}

/// A program that listens on a port, connects to another one like it, sends it a line at each
/// interval, prints the lines that come, and ends after this duration. Which of the two begins first
/// does not matter.
///
/// # Errors
/// Fails with [`ErrorKind::Config`] for ports below 1024, for what is neither a host name nor an
/// address, and for an interval of nothing.
pub fn peer(
    port: u16,
    (host, other): (&str, u16),
    duration: Duration,
    interval: Duration,
) -> Result<Script> {
    check_port(port)?;
    check_port(other)?;
    check_host(host)?;
    if interval.is_zero() {
        return refuse("the interval is 0; give it a second, for example".into());
    }
    Ok(Script::new(include_str!("socket/peer.lua"))
        .with_name("peer")
        .arg(port.to_string())
        .arg(host.to_owned())
        .arg(other.to_string())
        .arg(duration.as_secs_f64().to_string())
        .arg(interval.as_secs_f64().to_string()))
}

fn check_port(port: u16) -> Result<()> {
    if port >= 1024 {
        return Ok(());
    }
    refuse(format!(
        "{port} cannot be the port of a program in a VM; choose one from 1024 to 65535"
    ))
}

fn check_host(host: &str) -> Result<()> {
    let fits = (1..=253).contains(&host.len())
        && !host.starts_with('-')
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
    if fits {
        return Ok(());
    }
    refuse(format!(
        "{host:?} is neither a host name nor an address; use lab.example or 10.0.0.5"
    ))
}

fn refuse<T>(message: String) -> Result<T> {
    Err(Error::new(ErrorKind::Config, message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_need_rights_are_refused() {
        for port in [0, 80, 1023] {
            let told = server(port).unwrap_err().to_string();
            assert!(told.contains("1024 to 65535"), "{told}");
        }
        assert!(server(1024).is_ok());
        assert!(client("localhost", 65535, "hi").is_ok());
        let second = Duration::from_secs(1);
        assert!(peer(8080, ("::1", 80), second, second).is_err());
        assert!(peer(8080, ("::1", 8081), second, Duration::ZERO).is_err());
        assert!(peer(8080, ("::1", 8081), second, second).is_ok());
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_never_code() {
        for bad in ["", "x',1) print('INJECTED')--", "a b", "a\nb", "-x", "a;b"] {
            let error = client(bad, 8080, "hi").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
        }
        let script = client("10.0.0.5", 8080, "x') os.exit(1) --").unwrap();
        assert_eq!(script.code, include_str!("socket/client.lua"));
        assert_eq!(script.args[2], "x') os.exit(1) --");
    }
}
