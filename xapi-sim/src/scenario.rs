//! A pool, how it behaves and what goes wrong in it, from a TOML file.

use std::time::Duration;

use secrecy::SecretString;
use xapi_client::meta;

use crate::classes::sm;
use crate::db::RELEASES;
use crate::failure::Failure;
use crate::fault::FaultRule;
use crate::handlers;
use crate::model::{Model, NetworkSpec, SrSpec, TemplateSpec, UserSpec};
use crate::plugin::{self, Plugin};
use crate::rbac;
use crate::report::GuestReport;
use crate::sim::{Error, GuestMode, Sim, SimOptions};
use crate::spec::{Problems, SpecError, Table, read_toml};

/// A pool, how it behaves and what goes wrong in it.
///
/// Keys are named as the methods of [`Model`], [`SrSpec`], [`NetworkSpec`], [`TemplateSpec`],
/// [`UserSpec`], [`SimOptions`], [`FaultRule`] and [`Plugin`]. Sizes are bytes or texts such as `"8GiB"`,
/// times are seconds. The parts of a preset come before those of the file.
///
/// ```
/// use xapi_sim::Scenario;
///
/// let scenario = Scenario::from_toml(r#"
///     preset = "pool-of-three"     # or "single-host", "fleet", "empty"
///     seed = 7
///
///     [[user]]
///     name = "deployer"
///     password = "secret"
///     role = "vm-power-admin"
///
///     [[fault]]
///     method = "VM.clone"
///     after = 2
///     times = 1
///     fail = ["SR_BACKEND_FAILURE_44", "", "There is insufficient space", ""]
///
///     [behaviour]
///     guests = "simulated"
///     latency = 0.5
/// "#)?;
/// # let _ = scenario;
/// # Ok::<(), xapi_sim::SpecError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Scenario {
    /// What the pool consists of.
    pub model: Model,
    /// How it behaves.
    pub options: SimOptions,
    /// What goes wrong, in the order of the file.
    pub faults: Vec<FaultRule>,
    /// What plugins of the hosts answer, in the order of the file.
    pub plugins: Vec<Plugin>,
}

impl Scenario {
    /// Reads a TOML text.
    ///
    /// # Errors
    ///
    /// All mistakes at once, each with its line. Unknown keys are mistakes.
    pub fn from_toml(text: &str) -> Result<Scenario, SpecError> {
        read_toml(text, scenario)
    }

    /// Makes the pool.
    ///
    /// # Errors
    ///
    /// As [`Sim::start`].
    ///
    /// # Cancel safety
    ///
    /// As [`Sim::start`].
    pub async fn start(self) -> Result<Sim, Error> {
        let Scenario {
            model,
            options,
            faults,
            plugins,
        } = self;
        Sim::start_with(model, options, faults, plugins).await
    }
}

fn scenario(table: &mut Table, problems: &mut Problems) -> Scenario {
    let presets = Model::PRESETS.map(|name| (name, name));
    let preset = table.word(problems, "preset", &presets);
    let mut model = preset
        .and_then(Model::preset)
        .unwrap_or_else(Model::single_host);
    if let Some(name) = table.text(problems, "name") {
        model = model.name(name);
    }
    if let Some(seed) = table.count(problems, "seed") {
        model = model.seed(seed);
    }
    if let Some(release) = table.word(problems, "release", &RELEASES) {
        model = model.release(release);
    }
    if let Some(hosts) = table.count(problems, "hosts") {
        if hosts == 0 {
            let text = "is 0, and a pool has at least one host, its coordinator";
            table.refuse_value(problems, "hosts", text);
        }
        model = model.hosts(hosts);
    }
    if let Some(memory) = table.bytes(problems, "host_memory") {
        model = model.host_memory(memory);
    }
    if let Some(cpus) = table.count(problems, "host_cpus") {
        model = model.host_cpus(cpus);
    }
    if let Some(vms) = table.count(problems, "vms") {
        model = model.vms(vms);
    }
    for sr in table.tables(problems, "sr", sr) {
        model = model.sr(sr);
    }
    for network in table.tables(problems, "network", network) {
        model = model.network(network);
    }
    if let Some(skews) = table.ints(problems, "clock_skews") {
        if skews.len() > model.hosts {
            let text = format!("has more numbers than the {} hosts", model.hosts);
            table.refuse_value(problems, "clock_skews", text);
        }
        for (host, seconds) in skews.into_iter().enumerate() {
            model = model.clock_skew(host, seconds);
        }
    }
    for template in table.tables(problems, "template", |table, problems| {
        template(table, problems, &model)
    }) {
        model = model.template(template);
    }
    let mut names: Vec<String> = model.users.iter().map(|user| user.name.clone()).collect();
    names.push("root".to_owned());
    for user in table.tables(problems, "user", |table, problems| {
        user(table, problems, &mut names)
    }) {
        model = model.user(user);
    }
    let faults = table.tables(problems, "fault", fault);
    let plugins = table.tables(problems, "plugin", plugin::read);
    let options = table.table(problems, "behaviour", behaviour);
    Scenario {
        model,
        options: options.unwrap_or_default(),
        faults,
        plugins,
    }
}

fn sr(table: &mut Table, problems: &mut Problems) -> SrSpec {
    let name = table.required(problems, "name");
    let mut sr = if table.flag(problems, "shared").unwrap_or(false) {
        SrSpec::shared(name)
    } else {
        SrSpec::local(name)
    };
    let kinds: Vec<_> = sm::DRIVERS
        .iter()
        .map(|driver| (driver.kind, driver.kind))
        .collect();
    if let Some(kind) = table.word(problems, "kind", &kinds) {
        sr = sr.kind(kind);
    }
    if let Some(size) = table.bytes(problems, "size") {
        if size == 0 {
            table.refuse_value(problems, "size", "is 0; leave it out for the usual size");
        }
        sr = sr.size(size);
    }
    if table.flag(problems, "full").unwrap_or(false) {
        sr = sr.full();
    }
    sr
}

fn network(table: &mut Table, problems: &mut Problems) -> NetworkSpec {
    let name = table.required(problems, "name");
    match table.text(problems, "device") {
        Some(device) => NetworkSpec::external(name, device),
        None => NetworkSpec::internal(name),
    }
}

fn template(table: &mut Table, problems: &mut Problems, model: &Model) -> TemplateSpec {
    let name = table.required(problems, "name");
    let kinds = [
        ("guest", TemplateSpec::with_guest("")),
        ("empty-disk", TemplateSpec::with_empty_disk("")),
        ("built-in", TemplateSpec::built_in("", 0)),
    ];
    let kind = table.word(problems, "kind", &kinds);
    let mut template = kind.unwrap_or_else(|| TemplateSpec::with_guest(""));
    template.name = name;
    if let Some(text) = table.text(problems, "description") {
        template = template.description(text);
    }
    if let Some(size) = table.bytes(problems, "disk") {
        template = template.disk(size);
    }
    if template.needs_storage() && !model.has_storage() {
        table.refuse(
            problems,
            "has a disk and the pool has no SR for it; add an [[sr]]",
        );
    }
    for network in table.texts(problems, "vifs") {
        if !model.has_network(&network) {
            let text =
                format!("names the network {network}, which the model lacks; add a [[network]]");
            table.refuse_value(problems, "vifs", text);
        }
        template = template.vif(network);
    }
    let (min, max) = (template.memory_min, template.memory_max);
    let min_given = table.bytes(problems, "memory_min");
    let max_given = table.bytes(problems, "memory_max");
    template = template.memory(min_given.unwrap_or(min), max_given.unwrap_or(max));
    if template.memory_min > template.memory_max {
        let text = format!(
            "does not fit: memory_min is {} bytes and memory_max {}",
            template.memory_min, template.memory_max
        );
        let key = if min_given.is_some() {
            "memory_min"
        } else {
            "memory_max"
        };
        table.refuse_value(problems, key, text);
    }
    if let Some(count) = table.count(problems, "vcpus") {
        template = template.vcpus(count);
    }
    if let Some(count) = table.count(problems, "cores_per_socket") {
        template = template.cores_per_socket(count);
    }
    if !template.has_whole_sockets() {
        let cores = template.cores_per_socket.unwrap_or(1);
        let text = format!(
            "has {} vcpus and {cores} cores_per_socket; none of its VMs would start: make vcpus a \
             multiple, 1 or more",
            template.vcpus
        );
        table.refuse(problems, text);
    }
    if table.flag(problems, "cloud_init").unwrap_or(false) {
        template = template.cloud_init();
    }
    let late = table.seconds(problems, "late_address");
    let numbered = table.count(problems, "numbered_by_name");
    let report = table.word(problems, "report", &REPORTS);
    let reports = [
        late.map(GuestReport::LateAddress),
        numbered.map(GuestReport::NumberedByName),
        report,
    ];
    let mut reports = reports.into_iter().flatten();
    if let Some(report) = reports.next() {
        let silent = [GuestReport::NoTools, GuestReport::NoAddress];
        if template.vifs.is_empty() && !silent.contains(&report) {
            table.refuse(
                problems,
                "says what address its guests report, and has no interface for it; give it vifs",
            );
        }
        template = template.report(report);
    }
    if reports.next().is_some() {
        let text = "has more than one of report, late_address and numbered_by_name; give it one";
        table.refuse(problems, text);
    }
    template
}

fn user(table: &mut Table, problems: &mut Problems, taken: &mut Vec<String>) -> UserSpec {
    let name = table.required(problems, "name");
    if taken.contains(&name) {
        table.refuse_value(
            problems,
            "name",
            format_args!("is taken: there are two users {name}"),
        );
    }
    taken.push(name.clone());
    let has_password = table.has("password");
    let password = table.required(problems, "password");
    if has_password && password.is_empty() {
        table.refuse_value(
            problems,
            "password",
            "is empty, and nobody can log in with it",
        );
    }
    let password = SecretString::from(password);
    let user = UserSpec::new(name, password);
    let roles: Vec<(&str, &str)> = rbac::names().map(|role| (role, role)).collect();
    match table.word(problems, "role", &roles) {
        Some(role) => user.role(role),
        None => user,
    }
}

/// Reads a fault rule, of a file or of a request.
pub(crate) fn fault(table: &mut Table, problems: &mut Problems) -> FaultRule {
    let class = table.text(problems, "class");
    let is_named = class.is_some() || table.has("method");
    let method = match (&class, table.has("method")) {
        (Some(_), true) => {
            table.refuse(problems, "has both method and class; give one of them");
            table.required(problems, "method")
        }
        (Some(class), false) => {
            let _ = table.text(problems, "method");
            format!("{class}.*")
        }
        (None, _) => table.required(problems, "method"),
    };
    // A rule that can never act would let a test pass for the wrong reason.
    if is_named && !has_a_method(&method) {
        table.refuse(
            problems,
            format_args!(
                "names {method:?}, which no release of XAPI has; a method is VM.start or VM.*, an \
                 HTTP handler /export or \"GET /export\""
            ),
        );
    }
    let is_transfer = handlers::has(&method);
    let mut rule = FaultRule::method(method);
    if let Some(object) = table.text(problems, "object") {
        rule = rule.object(object);
    }
    if let Some(count) = table.count(problems, "after") {
        rule = rule.after(count);
    }
    if let Some(count) = table.count(problems, "times") {
        rule = rule.times(count);
    }
    if let Some(share) = table.share(problems, "probability") {
        rule = rule.probability(share);
    }
    let delay = table.seconds(problems, "delay");
    if let Some(delay) = delay {
        rule = rule.delay(delay);
    }
    let mut effects = usize::from(delay.is_some());
    let has_fail = table.has("fail");
    if let Some(failure) = failure(table, problems) {
        rule = rule.fail(failure.code, failure.params);
        effects += 1;
    } else if has_fail {
        table.refuse_value(
            problems,
            "fail",
            "is empty; give the code of a failure, NO_HOSTS_AVAILABLE",
        );
        effects += 1;
    }
    let before = effects;
    if table.flag(problems, "disconnect").unwrap_or(false) {
        rule = rule.disconnect();
        effects += 1;
    }
    if let Some(status) = table.count(problems, "http_status") {
        if !(200..600).contains(&status) {
            let text = format!("is {status}, which no answer has; give one from 200 to 599");
            table.refuse_value(problems, "http_status", text);
        }
        rule = rule.http_status(status);
        effects += 1;
    }
    if let Some(bytes) = table.count::<u32>(problems, "truncate") {
        rule = rule.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
        effects += 1;
    }
    if let Some(pause) = table.seconds(problems, "slow_body") {
        rule = rule.slow_body(pause);
        effects += 1;
    }
    if table.flag(problems, "expire_session").unwrap_or(false) {
        rule = rule.expire_session();
        effects += 1;
    }
    let on_the_way = effects - before;
    if on_the_way > 1 {
        let text = "has more than one of disconnect, http_status, truncate, slow_body and \
                    expire_session; give each a rule of its own";
        table.refuse(problems, text);
    }
    if on_the_way > 0 && has_fail && !is_transfer {
        let text = "has fail with what happens to the answer on its way; only transfers of HTTP \
                    handlers have both";
        table.refuse(problems, text);
    }
    if let Some(reboot) = table.seconds(problems, "crash_host") {
        rule = rule.crash_host(reboot);
        effects += 1;
    }
    if table.flag(problems, "after_effect").unwrap_or(false) {
        rule = rule.after_effect();
    }
    if effects == 0 {
        table.refuse(
            problems,
            "does nothing; give it delay, fail, disconnect, http_status, truncate, slow_body, \
             expire_session or crash_host",
        );
    }
    rule
}

/// The failure under `fail`: its code and its parameters.
pub(crate) fn failure(table: &mut Table, problems: &mut Problems) -> Option<Failure> {
    let texts = table.texts(problems, "fail");
    let (code, params) = texts.split_first()?;
    let is_code = code.starts_with(|first: char| first.is_ascii_uppercase())
        && code
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    if !is_code {
        let text = format!("begins with {code:?}, and codes are like HOST_NOT_ENOUGH_FREE_MEMORY");
        table.refuse_value(problems, "fail", text);
    }
    // Clients go where it says.
    if code == "HOST_IS_SLAVE" && params.iter().all(String::is_empty) {
        let why =
            "fails with HOST_IS_SLAVE, which tells the address of the coordinator: give it, too";
        table.refuse(problems, why);
    }
    Some(Failure::new(code, params))
}

/// Whether there is a method that a rule for this name would act on.
fn has_a_method(name: &str) -> bool {
    if handlers::has(name) {
        return true;
    }
    let name = name.strip_prefix("Async.").unwrap_or(name);
    match name.split_once('.') {
        None => name == "*",
        Some(("system", method)) => method == "listMethods",
        Some((class, method)) => {
            meta::class(class).is_some_and(|class| method == "*" || class.message(method).is_some())
        }
    }
}

/// What agents report, in the words of a file.
const REPORTS: [(&str, GuestReport); 5] = [
    ("address", GuestReport::Address),
    ("no-tools", GuestReport::NoTools),
    ("no-address", GuestReport::NoAddress),
    ("link-local", GuestReport::LinkLocal),
    ("ipv6", GuestReport::Ipv6),
];

fn behaviour(table: &mut Table, problems: &mut Problems) -> SimOptions {
    let mut options = SimOptions::default();
    let modes = [
        ("real", GuestMode::Real),
        ("simulated", GuestMode::Simulated),
    ];
    if let Some(mode) = table.word(problems, "guests", &modes) {
        options.guests = mode;
    }
    let times: [(&'static str, &mut Duration); 4] = [
        ("login_delay", &mut options.login_delay),
        ("latency", &mut options.latency),
        ("agent_delay", &mut options.agent_delay),
        ("event_delay", &mut options.event_delay),
    ];
    for (key, time) in times {
        if let Some(given) = table.seconds(problems, key) {
            *time = given;
        }
    }
    if let Some(report) = table.word(problems, "image_report", &REPORTS) {
        options.image_report = report;
    }
    if let Some(enabled) = table.flag(problems, "dynamic_memory") {
        options.dynamic_memory = enabled;
    }
    options
}
