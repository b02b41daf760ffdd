//! What can go wrong with a VM of a pool, by stage.

mod meaning;
mod remedy;

use std::error::Error as StdError;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use bioxen_vm_core::words::ByteSize;
use xapi_client::Fingerprint;

use crate::no_address::NoAddress;
use crate::ssh::SshError;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a VM could not be deployed, reached or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file with the password cannot be read.
    #[error(
        "cannot read the password from {} (password_file); write it there as the first line, for \
         yourself alone (chmod 600), or set password_file to where it is",
        path.display()
    )]
    PasswordFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The program that prints the password failed.
    #[error(
        "{program:?} (password_command) gave no password: {reason}; {}",
        remedy::PASSWORD_COMMAND
    )]
    PasswordCommand {
        /// The program.
        program: String,
        /// What happened.
        reason: String,
    },
    /// The file with the certificate authority cannot be read.
    #[error(
        "cannot read the certificate authority from {} (tls.ca_file); set tls.ca_file to its PEM \
         file, or tls.fingerprint in its place",
        path.display()
    )]
    CaFile {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// No host of the pool answers.
    #[error("cannot reach {host} on port {port}; {}", unreachable(host, &**source))]
    Unreachable {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The reason.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// What listens there does not speak TLS as hosts do.
    #[error(
        "cannot establish a secure connection with {host} on port {port}; check that it is a host of \
         the pool, and its port"
    )]
    NoTls {
        /// The host.
        host: String,
        /// The port.
        port: u16,
        /// The reason.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The certificate of the pool is not trusted.
    #[error(
        "the certificate of {host} is not trusted; if the host's own console shows the same \
         SHA-256 fingerprint, `bioxen trust {address} --fingerprint {fingerprint}` trusts it, with the \
         same --config and --pool, as does tls.fingerprint in the configuration: each host of a pool has \
         one of its own"
    )]
    Untrusted {
        /// The host.
        host: String,
        /// The same as it is configured, with its port.
        address: String,
        /// The fingerprint of the certificate that it presented.
        fingerprint: Fingerprint,
        /// The reason.
        source: Box<dyn StdError + Send + Sync>,
    },
    /// The pool refuses user name and password.
    #[error("{host} refuses the password of user {username:?}; check username and password")]
    WrongPassword {
        /// The host.
        host: String,
        /// The user.
        username: String,
    },
    /// The login to the pool failed for another reason.
    #[error("cannot log in to {host}")]
    Login {
        /// The host.
        host: String,
        /// The reason.
        source: Box<xapi_client::Error>,
    },
    /// The pool has nothing of this name.
    #[error("there is no {what} {name:?} on the pool; {hint}")]
    NotFound {
        /// What was looked for: `template`, `network`, `storage repository`.
        what: &'static str,
        /// The name or UUID.
        name: String,
        /// What there is instead.
        hint: String,
    },
    /// Several things on the pool have this name.
    #[error(
        "the pool has {} {} of the name {name:?}; give the UUID of one of them instead: {}",
        uuids.len(),
        many(what),
        uuids.join(", ")
    )]
    Ambiguous {
        /// What was looked for.
        what: &'static str,
        /// The name.
        name: String,
        /// The UUIDs of all that have it.
        uuids: Vec<String>,
    },
    /// The template has no disk, so there is no system to boot.
    #[error(
        "the template {name:?} has no disk, so its VMs have no system to boot; make a template \
         from an installed VM and give its name"
    )]
    Diskless {
        /// The template.
        name: String,
    },
    /// A fixed address was asked for, and nothing carries it to the VM.
    #[error(
        "the template {template:?} does not say that it has cloud-init, by which a VM is told its fixed \
         address and the names of others (static_address, peers); {hint}, or set ssh.first_contact = \
         \"config-drive\" if it has it"
    )]
    NoDrive {
        /// The template.
        template: String,
        /// What to use in its place.
        hint: String,
    },
    /// The record of what is made on pools cannot be kept.
    #[error("cannot keep a record of what is made on the pool; check state_dir")]
    Ledger(#[source] io::Error),
    /// cloud-init in the VM failed.
    #[error("cloud-init in the VM failed: {said}; {}", remedy::CLOUD_INIT)]
    CloudInit {
        /// What it said.
        said: String,
    },
    /// The template needs more memory.
    #[error(
        "{memory} of memory are below the minimum of the template {template:?}, which is \
         {minimum}; give at least that"
    )]
    MemoryTooSmall {
        /// The memory that was asked for.
        memory: ByteSize,
        /// The least that the template allows.
        minimum: ByteSize,
        /// The template.
        template: String,
    },
    /// The template's disk is larger.
    #[error(
        "a disk_size of {size} is below that of the template {template:?}, which is {minimum}; \
         disks can only grow"
    )]
    DiskTooSmall {
        /// The size that was asked for.
        size: ByteSize,
        /// That of the template's first disk.
        minimum: ByteSize,
        /// The template.
        template: String,
    },
    /// The processors do not fill their sockets.
    #[error(
        "the {vcpus} vcpus of the template {template:?} are no multiple of {cores} \
         cores_per_socket; give vcpus too"
    )]
    Topology {
        /// The processors.
        vcpus: i64,
        /// The processors of a socket.
        cores: i64,
        /// The template.
        template: String,
    },
    /// A call to the pool failed.
    #[error("the pool could not {doing}{}", remedy::behind(source))]
    Pool {
        /// What was being done, in words.
        doing: &'static str,
        /// The reason.
        source: Box<xapi_client::Error>,
    },
    /// The deployment was cancelled.
    #[error("the deployment was cancelled")]
    Cancelled,
    /// Something that was made could not be removed again.
    #[error("{what} is left on the pool; {remedy}")]
    LeftBehind {
        /// What it is, with its name. After a failed deployment: how that failed, too.
        what: String,
        /// Who removes it.
        remedy: &'static str,
        /// Why it could not be removed.
        source: Box<xapi_client::Error>,
    },
    /// The VM got no address in time.
    #[error("the VM has no address after {seconds} s: {why}")]
    NoAddress {
        /// The time that was allowed.
        seconds: u64,
        /// What was seen, and what to do about it.
        why: NoAddress,
    },
    /// The VM ended while it booted.
    #[error(
        "the VM {} while it booted; look at its console for why, and at whether its memory is \
         enough", if *.crashed { "crashed" } else { "was switched off, or switched itself off," }
    )]
    Ended {
        /// Whether the pool says that it crashed.
        crashed: bool,
    },
    /// The VM was removed while it was waited for.
    #[error("the VM was destroyed by somebody else while it booted; create another one")]
    Gone,
    /// The template's VMs would have no network.
    #[error(
        "the template {template:?} has no network interface, so nothing could reach its VMs; set network \
         to the name of one of the pool's networks"
    )]
    NoInterface {
        /// The template.
        template: String,
    },
    /// Whoever logs in to the VM has no shell that runs commands.
    #[error(
        "the login shell of {user:?} in the VM runs no commands{}; {}",
        if .said.is_empty() { String::new() } else { format!(": it says {:?}", .said) },
        remedy::NO_SHELL
    )]
    NoShell {
        /// The user.
        user: String,
        /// What came in place of a command's output.
        said: String,
    },
    /// The VM is not in a state in which this can be done.
    #[error("it is {state}; {remedy}")]
    State {
        /// The state.
        state: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The VM was adopted, and nothing here tells how to log in to it.
    #[error(
        "nobody knows a way into it: it was not kept by a program with this state_dir; set \
         ssh.first_contact = \"fixed\" with ssh.identity_file and ssh.host_key"
    )]
    NoWayIn,
    /// A VM is to be kept, and there is no place for the keys to it.
    #[error("the keys to a VM that is kept must be kept too; set state_dir to a private directory")]
    NoStateDir,
    /// A VM is to be kept, and another one is known by its id.
    #[error("the pool has a VM of this id already; destroy it or choose another id")]
    IdTaken,
    /// A name that no snapshot can have.
    #[error("{name:?} cannot be the name of a snapshot; choose another one")]
    SnapshotName {
        /// The name.
        name: String,
    },
    /// The VM has a snapshot of this name.
    #[error("it has a snapshot {name:?} already; remove that or choose another name")]
    SnapshotExists {
        /// The name.
        name: String,
    },
    /// A clone would have the address of the VM that it is made of.
    #[error(
        "a clone would have the same static_address; make another VM with an address of its own"
    )]
    SameAddress,
    /// No host of the pool can run the VM.
    #[error("no host of the pool can run it: {}", reasons.join(", "))]
    NoPlace {
        /// Each host with what it lacks.
        reasons: Vec<String>,
        /// What the pool said, if it was asked to start it.
        source: Option<Box<xapi_client::Error>>,
    },
    /// The backend was closed.
    #[error("the backend is closed; open another one")]
    Closed,
    /// The SSH server of the VM cannot be used.
    #[error("cannot log in to {machine} on port {port}; {remedy}")]
    Ssh {
        /// User and address.
        machine: String,
        /// The port.
        port: u16,
        /// What to check.
        remedy: &'static str,
        /// The reason.
        source: Box<SshError>,
    },
    /// The keys for a VM could not be made.
    #[error("cannot make the SSH keys of the VM")]
    Keys(#[source] Box<SshError>),
    /// The config drive of a VM could not be made.
    #[error("cannot make the config drive of the VM")]
    ConfigDrive(#[source] io::Error),
    /// The VM has no such interpreter.
    #[error(
        "there is no program {lua:?} in the VM; set lua to a Lua interpreter that it has, or install one \
         in the template"
    )]
    NoProgram {
        /// What was to be run.
        lua: String,
    },
    /// The VM has no usable Lua.
    #[error(
        "{lua:?} in the VM does not work as a Lua interpreter: {said}; {}",
        remedy::NO_LUA
    )]
    NoLua {
        /// The interpreter.
        lua: String,
        /// What it said.
        said: String,
    },
    /// A template is to be made with keys that all its VMs would share.
    #[error(
        "a template is made with keys of the VM's own; leave out ssh.identity_file, ssh.host_key and \
         ssh.known_hosts"
    )]
    TemplateKeys,
    /// There is a template of the name already.
    #[error("the pool has a template {name:?} already; remove it, or give another name")]
    TemplateExists {
        /// The name.
        name: String,
    },
    /// The template came with the pool.
    #[error("the template {name:?} came with the pool, which keeps it; choose another one")]
    BuiltIn {
        /// The name.
        name: String,
    },
    /// The template was made by somebody else.
    #[error(
        "BioXen has not made the template {name:?}; say --foreign (`foreign` in the library) to \
         remove it all the same"
    )]
    ForeignTemplate {
        /// The name.
        name: String,
    },
    /// What a template needs could not be installed.
    #[error(
        "{missing} could not be installed in the VM by its package manager ({manager}): {said}; {}",
        remedy::INSTALL
    )]
    Install {
        /// What is missing.
        missing: String,
        /// `apt`, `apk`, `dnf` or `none`.
        manager: String,
        /// Its last words.
        said: String,
    },
    /// The VM could not be made to forget who it is.
    #[error("the VM's system could not be cleaned: {said}; {}", remedy::CLEAN)]
    Clean {
        /// What it said.
        said: String,
    },
    /// The user who logs in may not install anything.
    #[error(
        "{user:?} may not install anything in the VM; set ssh.user to root, or to a user who may use \
         sudo without a password"
    )]
    NotRoot {
        /// The user.
        user: String,
    },
    /// A template is to be made of a VM whose files are those of this machine.
    #[error(
        "the VM's files are those of this machine, which would be changed and cleaned for the template; \
         use a pool whose VMs have files of their own: a simulator may make file systems where it runs \
         as root, or has bubblewrap"
    )]
    ThisMachine,
    /// The image of a disk cannot be used.
    #[error("the image {} cannot be used: {reason}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The reason and the remedy.
        reason: String,
    },
    /// The VMs of an image would have no network.
    #[error("an image has no network; set network to the name of one of the pool's networks")]
    ImageNetwork,
    /// Nothing says where the disk of an image goes.
    #[error(
        "the pool has no default storage; set sr, with clone = \"copy\", to where the disk goes"
    )]
    NoDefaultStorage,
    /// A command in the VM could not be run.
    #[error(transparent)]
    Guest(Box<bioxen_vm_core::Error>),
}

/// Who removes what this run has made and could not remove.
pub(crate) const COLLECTED: &str = "`bioxen gc` removes it once this program has ended";

/// What is being done when the pool is asked to start a VM.
pub(crate) const STARTING: &str = "start the VM";

impl Error {
    /// Names what was being done when a call failed.
    pub(crate) fn pool(doing: &'static str) -> impl FnOnce(xapi_client::Error) -> Self {
        move |source| Self::Pool {
            doing,
            source: Box::new(source),
        }
    }
}

/// What to do when nothing listens at a port of this machine.
pub(crate) const NOTHING_LISTENS: &str = "nothing on this machine listens there; a `bioxen sim` that \
                                          did has ended: start it again, or correct xcpng_host";

/// What to check when a host does not answer.
fn unreachable(host: &str, reason: &(dyn StdError + Send + Sync + 'static)) -> &'static str {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_here = host == "localhost"
        || host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let reason = reason.downcast_ref::<io::Error>();
    match reason.map(io::Error::kind) {
        Some(io::ErrorKind::ConnectionRefused) if is_here => NOTHING_LISTENS,
        _ => "check xcpng_host, that the host is up, and that no firewall blocks the port",
    }
}

/// The plural of what was looked for.
fn many(what: &str) -> String {
    match what.strip_suffix('y') {
        Some(stem) => format!("{stem}ies"),
        None => format!("{what}s"),
    }
}

/// An error and all that caused it, in one line.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
