//! A state that shares its process: what belongs to the process is replaced in it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use mlua::{Function, Lua, Result, Table, Value};

/// Where Lua 5.4 looks for packages in place of `;;`.
const PATH: &str = "/usr/local/share/lua/5.4/?.lua;/usr/local/share/lua/5.4/?/init.lua;\
                    /usr/local/lib/lua/5.4/?.lua;/usr/local/lib/lua/5.4/?/init.lua;\
                    ./?.lua;./?/init.lua";
const CPATH: &str = "/usr/local/lib/lua/5.4/?.so;/usr/local/lib/lua/5.4/loadall.so;./?.so";

/// Where the driver of sessions looks for requests.
const REQUESTS: &str = "/dev/fd/3";

/// What programs have in place of what their process has.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: File,
    pub(crate) env: Vec<(String, OsString)>,
}

impl Guest {
    /// The value of a variable; of several of one name the last.
    fn variable(&self, name: &str) -> Option<&OsStr> {
        let mut named = self.env.iter().rev().filter(|(other, _)| other == name);
        named.next().map(|(_, value)| &**value)
    }

    pub(crate) fn temporary_folder(&self) -> PathBuf {
        self.variable("TMPDIR").unwrap_or("/tmp".as_ref()).into()
    }

    /// Writes to standard error.
    pub(super) fn tell(&self, text: &str) {
        // Nobody is left to be told that nobody listens.
        let _ = (&self.stderr).write_all(text.as_bytes());
    }

    /// What changes the library needs of it, and of what is to be standard input.
    pub(super) fn describe(&self, lua: &Lua, stdin: &OwnedFd) -> Result<Table> {
        let guest = lua.create_table()?;
        guest.set("stdin", reopened(stdin))?;
        guest.set("stdout", reopened(&self.stdout))?;
        guest.set("stderr", reopened(&self.stderr))?;
        let env = lua.create_table()?;
        for (name, value) in &self.env {
            env.set(&**name, lua.create_string(value.as_bytes())?)?;
        }
        guest.set("env", env)?;
        for (key, default) in [("path", PATH), ("cpath", CPATH)] {
            let name = format!("LUA_{}_5_4", key.to_uppercase());
            let path = self.variable(&name).map(OsStr::as_bytes);
            let path = search_path(path.unwrap_or(b";;"), default.as_bytes());
            guest.set(key, lua.create_string(path)?)?;
        }
        Ok(guest)
    }
}

/// A search path with the default one in place of the first `;;`, as Lua reads its variable.
fn search_path(path: &[u8], default: &[u8]) -> Vec<u8> {
    let Some(at) = path.windows(2).position(|two| two == b";;") else {
        return path.to_owned();
    };
    let parts = [&path[..at], default, &path[at + 2..]];
    let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(&b';')
}

/// A path by which Lua can open an open file as one of its own.
pub(super) fn reopened(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

/// An `io.open` to which the requests of a session are this file.
pub(super) fn opener(lua: &Lua, io: &Table, requests: &OwnedFd) -> Result<Value> {
    let open: Function = io.get("open")?;
    let path = reopened(requests);
    let open = lua.create_function(move |_, (name, mode): (String, Option<String>)| {
        let name = if name == REQUESTS { &path } else { &name };
        open.call::<Value>((&**name, mode))
    })?;
    Ok(Value::Function(open))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_path_takes_the_place_of_two_semicolons() {
        for (given, meant) in [
            (&b";;"[..], &b"d"[..]),
            (b"a;;", b"a;d"),
            (b";;b", b"d;b"),
            (b"a;;b", b"a;d;b"),
            (b"a;b", b"a;b"),
            (b"\xff;;", b"\xff;d"),
        ] {
            assert_eq!(search_path(given, b"d"), meant, "{given:?}");
        }
    }
}
