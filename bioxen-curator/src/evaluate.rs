//! Runs rockspecs that compute what they say.

use std::sync::Arc;
use std::time::Duration;

use bioxen_vm_core::{Command, Runner, Status};

use crate::diagnose::last_line;
use crate::remedy;

/// Takes any Lua that the machine has; 77 when it has none. Its limits hold where a single step takes
/// long or much: 3 s of processor time and 256 MiB of memory.
const START: &str = "\
ulimit -t 3; ulimit -v 262144 2>/dev/null
unset LUA_INIT LUA_INIT_5_2 LUA_INIT_5_3 LUA_INIT_5_4 LUA_INIT_5_5
for lua in lua5.4 lua5.3 lua5.2 lua5.1 lua5.5 lua54 lua53 lua52 lua51 lua luajit; do
    if command -v \"$lua\" >/dev/null; then exec \"$lua\" -e \" $1\"; fi
done
exit 77";

const PROGRAM: &str = include_str!("rockspec.lua");

/// Beyond the processor time, which a program that waits does not use.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The Lua of a machine, for rockspecs.
#[derive(Debug, Clone)]
pub(crate) struct Interpreter {
    runner: Arc<dyn Runner>,
}

impl Interpreter {
    pub(crate) fn new(runner: &Arc<dyn Runner>) -> Self {
        let runner = Arc::clone(runner);
        Self { runner }
    }

    /// Runs a rockspec without any function of Lua's libraries, and gives what it says as
    /// assignments of constants.
    ///
    /// # Errors
    /// Fails with the reason.
    pub(crate) async fn constants(&self, rockspec: &str) -> Result<String, String> {
        let command = Command::new("sh")
            .args(["-c", START, "rockspec", PROGRAM])
            .with_stdin(rockspec.to_owned())
            .with_timeout(TIMEOUT);
        let outcome = self.runner.run(command).await.map_err(|error| {
            let machine = self.runner.describe();
            format!("it computes what it says, and Lua on {machine} cannot be run ({error})")
        })?;
        match outcome.status {
            Status::Exited(0) => Ok(outcome.stdout_text().into_owned()),
            Status::Exited(77) => Err(format!(
                "it computes what it says, and {} has no Lua to run it; install one ({})",
                self.runner.describe(),
                remedy::interpreter("5.4")
            )),
            // The line is told by Lua as `line:3: …`.
            Status::Exited(1) => {
                let reason = last_line(&outcome.stderr_text()).replace("line:", "line ");
                let hint = match reason.contains("attempt to") {
                    true => " (a rockspec has no libraries of Lua)",
                    false => "",
                };
                Err(format!("{reason}{hint}"))
            }
            _ => Err("it does not end within 3 s of processor time".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bioxen_vm_core::local::LocalRunner;

    use super::*;
    use crate::lua_table::{Value, parse};

    fn interpreter() -> Interpreter {
        Interpreter::new(&(Arc::new(LocalRunner::new()) as Arc<dyn Runner>))
    }

    #[tokio::test]
    async fn what_a_rockspec_computes_is_what_it_says() {
        let text = r#"#!/usr/bin/env lua
            local _MODREV, _SPECREV = "1.0", "-2"
            package = "alpha"
            version = _MODREV .. _SPECREV
            source = { url = ("https://x/%s.tar.gz"):format(package), 1, true }
            local modules = {}
            for i = 1, 3 do modules["alpha.m" .. i] = "src/m" .. i .. ".lua" end
            build = { modules = modules }
            if not os then description = { summary = "a \"quoted\"\\\nlïne\0" } end
            dependencies = { "lua >= 5.1", "beta" }
        "#;
        let said = parse(&interpreter().constants(text).await.unwrap()).unwrap();
        let string = |text: &str| Value::String(text.into());
        assert_eq!(said["version"], string("1.0-2"));
        assert_eq!(
            said["source"].get("url"),
            Some(&string("https://x/alpha.tar.gz"))
        );
        assert_eq!(
            said["source"].items(),
            [Value::Number(1.0), Value::Bool(true)]
        );
        let modules = said["build"].get("modules").unwrap().fields().unwrap();
        assert_eq!(modules["alpha.m3"], string("src/m3.lua"));
        assert_eq!(
            said["description"].get("summary"),
            Some(&string("a \"quoted\"\\\nlïne\0"))
        );
        assert_eq!(said["dependencies"].items().len(), 2);
        assert!(!said.contains_key("modules"), "it was local");
    }

    #[tokio::test]
    async fn a_rockspec_that_would_harm_is_refused_with_the_reason() {
        let folder = tempfile::tempdir().unwrap();
        let witness = folder.path().join("witness");
        let run = format!("os.execute('touch {}')", witness.display());
        for (text, reason) in [
            (run.as_str(), "line 1: attempt to index"),
            (
                "x = 1\nx = io.open('/etc/passwd')",
                "line 2: attempt to index",
            ),
            ("x = require('os')", "a rockspec has no libraries of Lua"),
            ("while true do end", "more than 10000000 steps"),
            ("x = {} x.x = x", "nested too deep"),
            ("x = function() end", "it holds a function"),
            ("x = { [{}] = 1 }", "is no text"),
            ("x = ('x'):rep(2^21)", "more than 1 MiB"),
            ("x = ('x'):rep(2^29)", "memory"),
            (
                "local t = {} for i = 1, 27 do t = { t, t } end x = t",
                "more than 1",
            ),
            (
                "x = (('a?'):rep(40) .. ('a'):rep(40)); x = ('a'):rep(40):find(x)",
                "3 s",
            ),
            ("x = ", "line 1: "),
            ("\u{1b}Lua", "compiled Lua"),
        ] {
            let error = interpreter().constants(text).await.unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert!(!witness.exists());
    }

    #[tokio::test]
    async fn a_machine_without_lua_says_what_to_install() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/bin/sh", folder.path().join("sh")).unwrap();
        let path = folder.path().to_str().unwrap();
        let runner: Arc<dyn Runner> = Arc::new(LocalRunner::new().with_env("PATH", path));
        let error = Interpreter::new(&runner)
            .constants("x = 1")
            .await
            .unwrap_err();
        assert!(error.contains("apt-get install lua5.4"), "{error}");
    }
}
