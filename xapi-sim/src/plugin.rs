//! What plugins of hosts answer to `host.call_plugin`: those of a test, as hosts come with none.

use std::fmt;

use crate::db::Db;
use crate::failure::{Failure, Reply};
use crate::spec::{Problems, Table};
use crate::value::Value;

/// A function of a plugin of the hosts, and what it answers.
///
/// A function may have several answers, for one host or for some arguments; the newest that fits
/// counts. A plugin that has no function of the name that a call gives refuses it with
/// `UNKNOWN_XENAPI_PLUGIN_FUNCTION`, and a host without the plugin with `XENAPI_MISSING_PLUGIN`.
/// Where the answer has to be computed, or something is to happen, take [`Sim::on`](crate::Sim::on).
///
/// ```
/// use xapi_sim::Plugin;
///
/// let pools = Plugin::new("zfs.py", "list_zfs_pools").returns("{}");
/// let broken = Plugin::new("zfs.py", "list_zfs_pools")
///     .host("xcp-ng-2")
///     .fails("XENAPI_PLUGIN_FAILURE", ["list_zfs_pools", "OSError", "no zpool"]);
/// # let _ = (pools, broken);
/// ```
#[derive(Debug, Clone)]
pub struct Plugin {
    name: String,
    function: String,
    /// Reference, uuid or name of the only host that has it.
    host: Option<String>,
    /// Arguments that a call has to give, among others.
    args: Vec<(String, String)>,
    answer: Result<String, Failure>,
}

impl Plugin {
    /// A function of a plugin, on every host and for any arguments. It returns an empty text.
    pub fn new(name: impl Into<String>, function: impl Into<String>) -> Self {
        Plugin {
            name: name.into(),
            function: function.into(),
            host: None,
            args: Vec::new(),
            answer: Ok(String::new()),
        }
    }

    /// Only on this host, by its name, uuid or reference.
    #[must_use]
    pub fn host(mut self, host: impl Into<String>) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Only for calls that give this argument, whatever else they give.
    #[must_use]
    pub fn arg(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.args.push((name.into(), value.into()));
        self
    }

    /// Returns this text.
    #[must_use]
    pub fn returns(mut self, text: impl Into<String>) -> Self {
        self.answer = Ok(text.into());
        self
    }

    /// Fails with this code and these parameters.
    #[must_use]
    pub fn fails<S: Into<String>>(
        mut self,
        code: impl Into<String>,
        params: impl IntoIterator<Item = S>,
    ) -> Self {
        self.answer = Err(Failure::new(code, params));
        self
    }

    fn is_on(&self, db: &Db, host: &str) -> bool {
        let named = self.host.as_deref();
        named.is_none_or(|named| named == host || db.is_called(host, named))
    }

    fn takes(&self, given: &Value) -> bool {
        let mut wanted = self.args.iter();
        wanted.all(|(name, value)| given.get(name).and_then(Value::as_str) == Some(value))
    }
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.function)?;
        for (name, value) in &self.args {
            write!(f, " {name}={value}")?;
        }
        if let Some(host) = &self.host {
            write!(f, " on {host}")?;
        }
        match &self.answer {
            Ok(text) => write!(f, ": return {text:?}"),
            Err(failure) => write!(f, ": fail with {failure}"),
        }
    }
}

/// Reads a plugin, of a file or of a request.
pub(crate) fn read(table: &mut Table, problems: &mut Problems) -> Plugin {
    let name = table.required(problems, "name");
    let mut plugin = Plugin::new(name, table.required(problems, "function"));
    plugin.host = table.text(problems, "host");
    plugin.args = table.pairs(problems, "args");
    let result = table.text(problems, "result");
    let fail = table.texts(problems, "fail");
    if result.is_some() && !fail.is_empty() {
        table.refuse(problems, "has both result and fail; give one of them");
    }
    if let Some((code, params)) = fail.split_first() {
        return plugin.fails(code, params);
    }
    plugin.returns(result.unwrap_or_default())
}

/// What a host answers to a call of a plugin.
pub(crate) fn call(
    plugins: &[Plugin],
    db: &Db,
    host: &str,
    (name, function, args): (&str, &str, &Value),
) -> Reply {
    let installed: Vec<&Plugin> = plugins
        .iter()
        .filter(|plugin| plugin.name == name && plugin.is_on(db, host))
        .collect();
    if installed.is_empty() {
        return Err(missing(name));
    }
    let mut answers = installed
        .into_iter()
        .rev()
        .filter(|plugin| plugin.function == function)
        .peekable();
    if answers.peek().is_none() {
        return Err(Failure::new("UNKNOWN_XENAPI_PLUGIN_FUNCTION", [function]));
    }
    let found = answers.find(|plugin| plugin.takes(args));
    let answer = found.map(|plugin| plugin.answer.clone());
    let answer = answer.unwrap_or_else(|| {
        // How plugins end that do not know what to do.
        let why = "this function has no answer for these arguments";
        Err(Failure::new(
            "XENAPI_PLUGIN_FAILURE",
            [function, "ValueError", why],
        ))
    });
    answer.map(Value::String)
}

/// The failure of a host that has no plugin of this name.
pub(crate) fn missing(name: &str) -> Failure {
    Failure::new("XENAPI_MISSING_PLUGIN", [name])
}
