//! The doctor finds each fault that there can be, says what to do, and looks at all the rest.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;

use bioxen_vm_core::{Backend as _, ErrorKind, Script, VmId};
use bioxen_vm_xcpng::ssh::KeyPair;
use bioxen_vm_xcpng::{Check, Doctor, Finding, Told, Verdict, XcpngBackend, XcpngConfig};
use serde_json::{Value, json};
use xapi_sim::guest::{PORT, Rung};
use xapi_sim::{
    FaultRule, GuestMode, GuestReport, Model, NetworkSpec, SimOptions, SrSpec, TemplateSpec,
    UserSpec,
};

use crate::config_drive::{self, NETWORK};
use crate::lab::{Lab, PASSWORD};

/// The verdicts by code, the worst of each, and all lines.
struct Examined {
    verdicts: BTreeMap<&'static str, Verdict>,
    findings: Vec<Finding>,
}

impl Examined {
    async fn with(doctor: Doctor) -> Self {
        let findings = Box::pin(doctor.examine()).await;
        let mut verdicts = BTreeMap::new();
        for finding in &findings {
            let worst = verdicts
                .entry(finding.check.code())
                .or_insert(finding.verdict);
            if finding.verdict == Verdict::Failed || *worst == Verdict::Good {
                *worst = finding.verdict;
            }
        }
        Self { verdicts, findings }
    }

    async fn pool(lab: &Lab, changes: Value) -> Self {
        Self::with(Doctor::new(lab.config(changes)).without_vm()).await
    }

    async fn vm(lab: &Lab, changes: Value) -> Self {
        let before = lab.inventory().await;
        let examined = Self::with(Doctor::new(lab.config(changes))).await;
        lab.holds_only(&before, "afterwards").await;
        examined
    }

    fn text(&self) -> String {
        let lines: Vec<_> = self.findings.iter().map(ToString::to_string).collect();
        lines.join("\n")
    }

    /// Insists on the one check that failed, on what it says, and on these that are good.
    fn fails(&self, check: Check, words: &[&str], good: &[Check]) {
        let text = self.text();
        let failed: Vec<_> = self
            .findings
            .iter()
            .filter(|finding| finding.verdict == Verdict::Failed)
            .collect();
        assert!(
            failed.iter().all(|finding| finding.check == check) && !failed.is_empty(),
            "{check} should be all that failed:\n{text}"
        );
        for word in words {
            let told = failed.iter().any(|one| one.to_string().contains(word));
            assert!(told, "{word:?} is missing in:\n{text}");
        }
        for finding in &failed {
            assert!(finding.remedy.is_some(), "no remedy: {finding}");
            assert!(!finding.to_string().contains(PASSWORD), "{finding}");
        }
        for other in good {
            assert_eq!(
                self.verdicts.get(other.code()),
                Some(&Verdict::Good),
                "{other} should be good:\n{text}"
            );
        }
    }
}

fn options() -> SimOptions {
    SimOptions::default().with_guests(GuestMode::Simulated)
}

fn closed_port() -> String {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    free.local_addr().unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_pool_is_good_in_every_check() {
    let lab = Lab::with(
        Model::single_host().template(TemplateSpec::with_guest("lua").vif(NETWORK)),
        SimOptions::default(),
    )
    .await;
    let examined = Examined::vm(&lab, json!({"template": "lua"})).await;
    let text = examined.text();
    println!("{text}");
    for check in Check::ALL {
        let verdict = examined.verdicts.get(check.code()).copied();
        // Whether this machine, whose programs the guests have, has a compiler is its own affair.
        let is_good = check == Check::BuildTools || verdict == Some(Verdict::Good);
        assert!(is_good, "{check}:\n{text}");
    }
    let codes: Vec<_> = examined.findings.iter().map(|found| found.check).collect();
    let order = |check: &Check| Check::ALL.iter().position(|one| one == check);
    assert!(codes.is_sorted_by_key(order), "{text}");
    let json = serde_json::to_value(&examined.findings[0]).unwrap();
    assert_eq!(
        json,
        json!({
            "code": "config", "verdict": "good", "found": "nothing contradicts itself",
            "remedy": null,
        })
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_configuration_is_told_before_anything_is_asked() {
    let examined = Examined::with(Doctor::new(XcpngConfig::default())).await;
    examined.fails(Check::Config, &["xcpng_host is missing", "template"], &[]);
    let others = examined.findings.iter().skip(3);
    assert!(others.clone().count() >= 22);
    assert!(
        others
            .into_iter()
            .all(|one| one.verdict == Verdict::Skipped)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_to_the_pool_is_looked_at_step_by_step() {
    use Check::{Dns, Login, Password, Tcp, Tls};
    let lab = Lab::records_only().await;
    let other = "00:".repeat(31) + "00";
    // It accepts and says nothing that TLS knows.
    let plain = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let no_tls = plain.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in plain.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"220 mail\r\n");
        }
    });
    let address = lab.server.address();
    let pin = lab.server.fingerprint().unwrap();
    // With the port, which the certificate is seen at.
    let trust = format!("`bioxen trust {address} --fingerprint {pin}`");
    let cases: [(Value, Check, &[&str], &[Check]); 7] = [
        (
            json!({"xcpng_host": "no-such-host.invalid"}),
            Dns,
            &["no-such-host.invalid has no address", "check the name"],
            &[Password],
        ),
        (
            json!({"xcpng_host": closed_port()}),
            Tcp,
            &["refused", "nothing on this machine listens", "bioxen sim"],
            &[Dns],
        ),
        (
            json!({"xcpng_host": no_tls}),
            Tls,
            &["cannot establish a secure connection"],
            &[Dns, Tcp],
        ),
        (
            json!({"tls": {"fingerprint": other}}),
            Tls,
            &["not trusted", "tls.fingerprint", &trust],
            &[Dns, Tcp],
        ),
        (
            json!({"tls": {"ca_file": "/no/such/ca"}}),
            Tls,
            &["/no/such/ca"],
            &[Dns, Tcp],
        ),
        (
            json!({"password": null, "password_file": "/no/such/file"}),
            Password,
            &["/no/such/file", "as the first line"],
            &[Dns, Tcp, Tls],
        ),
        (
            json!({"password": "wrong"}),
            Login,
            &["refuses the password", "check username"],
            &[Dns, Tcp, Tls],
        ),
    ];
    for (changes, check, words, good) in cases {
        let examined = Examined::pool(&lab, changes).await;
        examined.fails(check, words, good);
        assert_eq!(examined.verdicts["role"], Verdict::Skipped);
    }
    // Whom to trust can be told without the password that is missing.
    let changes = json!({"password": null, "password_file": "/no", "tls": {"fingerprint": other}});
    let examined = Examined::pool(&lab, changes).await;
    for (check, verdict) in [
        (Password, Verdict::Failed),
        (Tls, Verdict::Failed),
        (Login, Verdict::Skipped),
    ] {
        let text = examined.text();
        assert_eq!(examined.verdicts[check.code()], verdict, "{text}");
        assert!(text.contains(&trust), "{text}");
    }
    // One host that works is enough.
    let hosts = json!([closed_port(), lab.server.address().to_string()]);
    let examined = Examined::pool(&lab, json!({"xcpng_host": hosts})).await;
    assert_eq!(
        examined.verdicts["tcp"],
        Verdict::Warning,
        "{}",
        examined.text()
    );
    assert_eq!(examined.verdicts["template"], Verdict::Good);
    let examined = Examined::pool(&lab, json!({"tls": {"insecure": true}})).await;
    assert_eq!(examined.verdicts["tls"], Verdict::Warning);
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_pool_lacks_is_found_beside_what_it_has() {
    use Check::{ApiVersion, Memory, Network, Role, Storage, Template};
    let model = Model::single_host()
        .sr(SrSpec::shared("small").size(1 << 30))
        .network(NetworkSpec::internal("inside"))
        .user(UserSpec::new("operator", PASSWORD.to_owned().into()).role("vm-operator"))
        .template(TemplateSpec::with_empty_disk("lua").vif(NETWORK))
        .template(TemplateSpec::with_empty_disk("alone"))
        .template(TemplateSpec::with_empty_disk("twice"))
        .template(TemplateSpec::with_empty_disk("twice"))
        .template(TemplateSpec::built_in("blank", 8 << 30));
    let lab = Lab::with(model, options()).await;
    let cases: [(Value, Check, &[&str], &[Check]); 10] = [
        (
            json!({"username": "operator"}),
            Role,
            &["may not use vm.clone", "vm-power-admin"],
            &[ApiVersion, Template, Storage],
        ),
        (
            json!({"template": "luaa", "network": NETWORK}),
            Template,
            &["no template \"luaa\"", "\"lua\""],
            &[Role, ApiVersion, Memory, Network],
        ),
        (
            json!({"template": "twice"}),
            Template,
            &["2 templates", "give the UUID"],
            &[Memory],
        ),
        (
            json!({"template": "blank"}),
            Template,
            &["has no disk"],
            &[Memory],
        ),
        (
            json!({"sr": "small", "clone": "copy"}),
            Storage,
            &["\"small\"", "1.0 GiB free", "bioxen gc"],
            &[Template, Memory, Network],
        ),
        (
            json!({"memory": "4TB"}),
            Memory,
            &["a VM needs 4096.0 GiB", "set memory to less"],
            &[Template, Storage, Network],
        ),
        (
            json!({"affinity": "nohost"}),
            Memory,
            &["there is no host \"nohost\" on the pool", "there are:"],
            &[Template, Storage, Network],
        ),
        (
            json!({"network": ["no-such", NETWORK]}),
            Network,
            &["no network \"no-such\"", "there are:"],
            &[Template, Storage, Memory],
        ),
        (
            json!({"template": "alone"}),
            Network,
            &["set network"],
            &[Template, Storage, Memory],
        ),
        (
            json!({"memory": "1MB"}),
            Template,
            &["below the minimum"],
            &[],
        ),
    ];
    for (changes, check, words, good) in cases {
        let mut all = json!({"template": "lua"});
        let of_case = changes.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(of_case);
        let examined = Examined::pool(&lab, all).await;
        examined.fails(check, words, good);
        assert_eq!(examined.verdicts["boot"], Verdict::Skipped);
    }
    let examined = Examined::pool(&lab, json!({"template": "lua", "network": "inside"})).await;
    assert_eq!(
        examined.verdicts["network"],
        Verdict::Warning,
        "{}",
        examined.text()
    );

    lab.sim
        .on("PIF_metrics.get_carrier", |_| Some(Ok(false.into())));
    let examined = Examined::pool(&lab, json!({"template": "lua"})).await;
    examined.fails(Network, &["has no carrier", "check the cable"], &[Memory]);
    lab.unplug_storage().await;
    let examined = Examined::pool(&lab, json!({"template": "lua", "network": "inside"})).await;
    examined.fails(Storage, &["no host is connected", "xe pbd-list"], &[Memory]);
    lab.sim
        .inject(FaultRule::method("host.get_all_records").fail("INTERNAL_ERROR", ["no"]));
    let examined = Examined::pool(&lab, json!({"template": "lua"})).await;
    let text = examined.text();
    assert_eq!(examined.verdicts["api-version"], Verdict::Failed, "{text}");
    assert!(text.contains("could not list its hosts"), "{text}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_cannot_be_made_started_or_removed_is_told() {
    use Check::{Boot, Cleanup, Deploy};
    let model = Model::single_host().template(TemplateSpec::with_guest("lua").vif(NETWORK));
    let lab = Lab::with(model, options()).await;
    for (method, check, good) in [
        ("VM.clone", Deploy, &[][..]),
        ("VM.start", Boot, &[Deploy, Cleanup][..]),
    ] {
        lab.sim
            .inject(FaultRule::method(method).fail("INTERNAL_ERROR", ["no luck"]));
        let examined = Examined::vm(&lab, json!({"template": "lua"})).await;
        examined.fails(check, &["no luck"], good);
        lab.sim.clear_faults();
    }
    lab.sim
        .inject(FaultRule::method("VM.destroy").fail("INTERNAL_ERROR", ["no luck"]));
    lab.sim
        .inject(FaultRule::method("VM.start").fail("INTERNAL_ERROR", ["nor here"]));
    let doctor = Doctor::new(lab.config(json!({"template": "lua"})));
    let examined = Examined::with(doctor).await;
    assert_eq!(
        examined.verdicts["cleanup"],
        Verdict::Failed,
        "{}",
        examined.text()
    );
    assert!(examined.text().contains("bioxen gc"), "{}", examined.text());
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lack_of_an_address_has_the_code_of_its_cause() {
    use Check::{Address, Boot, Deploy, GuestTools, Network};
    let report = |name: &str, report| TemplateSpec::with_guest(name).vif(NETWORK).report(report);
    let model = Model::single_host()
        .template(report("mute", GuestReport::NoTools))
        .template(report("link-local", GuestReport::LinkLocal))
        .template(report("silent", GuestReport::NoAddress));
    let lab = Lab::with(model, options()).await;
    let cases: [(&str, Check, &[&str], &[Check]); 3] = [
        (
            "mute",
            GuestTools,
            &["have not reported", "install the guest tools"],
            &[Deploy, Boot],
        ),
        (
            "link-local",
            Address,
            &["only 169.254.", "DHCP"],
            &[Deploy, Boot, GuestTools],
        ),
        (
            "silent",
            Address,
            &["report no address"],
            &[Deploy, Boot, GuestTools],
        ),
    ];
    for (template, check, words, good) in cases {
        let changes = json!({"template": template, "boot_timeout": "1s"});
        Examined::vm(&lab, changes).await.fails(check, words, good);
    }
    // After the pool was looked at.
    let calls = std::sync::atomic::AtomicUsize::new(0);
    lab.sim.on("PIF_metrics.get_carrier", move |_| {
        let before = calls.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Some(Ok((before == 0).into()))
    });
    let changes = json!({"template": "mute", "boot_timeout": "1s"});
    let examined = Examined::vm(&lab, changes).await;
    examined.fails(
        Network,
        &["has no carrier on the VM's host"],
        &[Deploy, Boot],
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_inside_a_vm_is_told_by_its_code() {
    use Check::{Address, Cleanup, Lua, Shell, Ssh};
    let model = Model::single_host().template(TemplateSpec::with_guest("lua").vif(NETWORK));
    let lab = Lab::with(model, SimOptions::default()).await;
    let user = lab.sim.guest_user().unwrap_or("root").to_owned();
    let ssh = |user: &str, port| json!({"user": user, "port": port});
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("key");
    let ours = KeyPair::generate("test").unwrap();
    std::fs::write(&identity, ours.expose_private()).unwrap();
    std::fs::set_permissions(&identity, std::fs::Permissions::from_mode(0o600)).unwrap();
    let another = KeyPair::generate("another").unwrap();
    let fixed = json!({
        "user": user, "port": PORT, "identity_file": identity, "host_key": another.public(),
    });
    let cases: [(Value, Check, &[&str], &[Check]); 5] = [
        (
            json!({"ssh": fixed}),
            Ssh,
            &[
                "does not have the host key that was expected",
                "check ssh.host_key",
            ],
            &[Address, Cleanup],
        ),
        (
            json!({"ssh": ssh(&user, PORT + 1), "boot_timeout": "2s"}),
            Ssh,
            &["the port is closed", "check ssh.port"],
            &[Address, Cleanup],
        ),
        (
            json!({"ssh": ssh("nosuchuser", PORT)}),
            Ssh,
            &["refused our key", "authorized-keys"],
            &[Address, Cleanup],
        ),
        (
            json!({"lua": "no-such-lua"}),
            Lua,
            &[
                "there is no program \"no-such-lua\"",
                "set lua to a Lua interpreter that it has",
            ],
            &[Address, Ssh, Shell, Cleanup],
        ),
        (
            json!({"lua": "true"}),
            Lua,
            &[
                "\"true\" in the VM does not work",
                "set lua to one that does",
            ],
            &[Address, Ssh, Shell, Cleanup],
        ),
    ];
    for (changes, check, words, good) in cases {
        let mut all = json!({"template": "lua"});
        let of_case = changes.as_object().unwrap().clone();
        all.as_object_mut().unwrap().extend(of_case);
        Examined::vm(&lab, all).await.fails(check, words, good);
    }
    if lab.sim.rung() == Some(Rung::Overlay) {
        let nobody = json!({"template": "lua", "ssh": ssh("nobody", PORT)});
        let examined = Examined::vm(&lab, nobody).await;
        let words = &["\"nobody\"", "not available", "set ssh.user"];
        examined.fails(Shell, words, &[Address, Ssh, Cleanup]);
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_init_that_fails_is_told_with_its_last_lines() {
    let lab = Lab::with(config_drive::model(), SimOptions::default()).await;
    if lab.sim.rung() != Some(Rung::Overlay) {
        println!("left out: only guests with files of their own can be prepared for it");
        lab.end().await;
        return;
    }
    let root = json!({"user": "root", "port": PORT, "first_contact": "config-drive"});
    let changes = config_drive::changes(&lab, json!({"ssh": root.clone()}));
    let backend = XcpngBackend::new(lab.config(changes)).unwrap();
    let vm = lab.running(&backend, "vm1").await;
    // What cannot be written over is in the way of cloud-init in all VMs made of it.
    let spoil = "assert(os.execute('rm -f /etc/machine-id && mkdir -p /etc/machine-id/x'))";
    assert!(vm.execute(Script::new(spoil)).await.unwrap().success());
    vm.stop().await.unwrap();
    lab.make_template("bioxen-vm1", "spoilt").await;
    let changes = json!({"template": "spoilt", "ssh": root});
    let examined = Examined::vm(&lab, changes).await;
    let words = &["cannot write /etc/machine-id", "cloud-init-output.log"];
    examined.fails(Check::CloudInit, words, &[Check::Address, Check::Ssh]);
    assert_eq!(examined.verdicts["lua"], Verdict::Skipped);
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_template_lacks_for_packages_and_whom_it_lets_in_is_warned_of() {
    let model = Model::single_host().template(TemplateSpec::with_guest("lua").vif(NETWORK));
    let lab = Lab::with(model, SimOptions::default()).await;
    if lab.sim.rung() != Some(Rung::Overlay) {
        println!("left out: only guests with files of their own can be without some");
        lab.end().await;
        return;
    }
    let root = json!({"user": "root", "port": PORT});
    let changes = json!({"template": "lua", "ssh": root.clone()});
    let backend = XcpngBackend::new(lab.config(changes)).unwrap();
    let vm = lab.running(&backend, "vm1").await;
    let spoil = "assert(os.execute([[for name in luarocks cc gcc; do \
                 while path=$(command -v $name); do rm -f $path; hash -r; done; done; \
                 rm -rf /usr/include/lua* /usr/local/include/lua*; mkdir -p /root/.ssh; \
                 echo 'ssh-ed25519 AAAAother somebody' >>/root/.ssh/authorized_keys]]))";
    let spoilt = vm.execute(Script::new(spoil)).await.unwrap();
    assert!(spoilt.success(), "{spoilt:?}");
    vm.stop().await.unwrap();
    lab.make_template("bioxen-vm1", "bare").await;
    let examined = Examined::vm(&lab, json!({"template": "bare", "ssh": root})).await;
    let text = examined.text();
    for (check, word) in [
        (Check::Luarocks, "install luarocks in the template"),
        (
            Check::BuildTools,
            "a C compiler and the headers of Lua 5.4 are missing",
        ),
        (
            Check::Identity,
            "open all its VMs: /root/.ssh/authorized_keys",
        ),
    ] {
        assert_eq!(examined.verdicts[check.code()], Verdict::Warning, "{text}");
        assert!(text.contains(word), "{word}: {text}");
    }
    assert_eq!(examined.verdicts["cleanup"], Verdict::Good, "{text}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_ends_while_it_boots_is_told_from_one_that_crashes() {
    let mute = TemplateSpec::with_guest("mute").report(GuestReport::NoTools);
    let model = Model::single_host().template(mute.vif(NETWORK));
    let lab = Lab::with(model, options()).await;
    let backend = XcpngBackend::new(lab.config(json!({"template": "mute"}))).unwrap();
    for (crashes, words) in [(false, "was switched off"), (true, "the VM crashed")] {
        let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
        let (started, ()) = tokio::join!(vm.start(), lab.end_vm("bioxen-vm1", crashes));
        let error = started.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidState, "{error}");
        let told = error.to_string();
        assert!(told.contains(words) && told.contains("console"), "{told}");
        vm.destroy().await.unwrap();
    }
    backend.close().await.unwrap();
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_of_a_vm_is_told_before_what_takes_long() {
    let lab = Lab::with(
        Model::single_host().template(TemplateSpec::with_guest("lua").vif(NETWORK)),
        SimOptions::default(),
    )
    .await;
    let user = lab.sim.guest_user().unwrap_or("root").to_owned();
    let ssh = json!({"user": user, "port": PORT + 1});
    let changes = json!({"template": "lua", "ssh": ssh, "boot_timeout": "5s"});
    let mut story = Vec::new();
    let tell = |news: Told<'_>| {
        story.push(match news {
            Told::Begun(check) => format!("begins {check}"),
            Told::Found(finding) => format!("{} {}", finding.verdict, finding.check),
            _ => return,
        });
    };
    let doctor = Doctor::new(lab.config(changes));
    doctor.examine_until(std::future::pending(), tell).await;
    let of_vm = story.iter().skip_while(|told| *told != "begins deploy");
    let of_vm: Vec<_> = of_vm
        .take_while(|told| !told.starts_with("skipped"))
        .collect();
    assert_eq!(
        of_vm,
        [
            "begins deploy",
            "good deploy",
            "begins boot",
            "good boot",
            "begins address",
            "good guest-tools",
            "good address",
            "begins ssh",
            "failed ssh",
        ],
        "{story:?}"
    );
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_doctor_that_is_told_to_stop_removes_its_vm_first() {
    let model = Model::single_host().template(
        TemplateSpec::with_guest("mute")
            .vif(NETWORK)
            .report(GuestReport::NoTools),
    );
    let lab = Lab::with(model, options()).await;
    let before = lab.inventory().await;
    let doctor = Doctor::new(lab.config(json!({"template": "mute"})));
    let (told, stop) = tokio::sync::oneshot::channel();
    let mut told = Some(told);
    let stop = async {
        let _ = stop.await;
    };
    // While it waits for the VM's address.
    let tell = |news: Told<'_>| {
        if matches!(news, Told::Begun(Check::Address)) {
            let _ = told.take().unwrap().send(());
        }
    };
    doctor.examine_until(stop, tell).await;
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}
