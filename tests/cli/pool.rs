//! Wrong input for a pool, and what looks after one.

use std::net::{Ipv4Addr, SocketAddr};

use xapi_client::SecretString;
use xapi_sim::{GuestMode, Model, Server, Sim, SimOptions};

use super::{PASSWORD, bioxen, stderr, stdout};

/// A pool whose VMs are records only, which is all that wrong input ever reaches.
struct Pool {
    sim: Sim,
    server: Server,
}

impl Pool {
    async fn start() -> Self {
        let options = SimOptions::default()
            .with_password(SecretString::from(PASSWORD.to_owned()))
            .with_guests(GuestMode::Simulated);
        let sim = Sim::start(Model::single_host(), options).await.unwrap();
        let server = sim
            .serve(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .await
            .unwrap();
        Self { sim, server }
    }

    /// Runs a program on the pool with these settings besides those that are right, and gives what
    /// was said on standard error.
    async fn refuses(&self, settings: &[&str]) -> String {
        let host = format!("xcpng_host={}", self.server.address());
        let pin = format!("tls.fingerprint={}", self.server.fingerprint().unwrap());
        let mut args = vec!["run", "--type", "xcpng", "-e", "print(1)"];
        for setting in [host.as_str(), pin.as_str(), "template=lua-bio-template"]
            .iter()
            .chain(settings)
        {
            args.extend(["--set", setting]);
        }
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let before = self.vms().await;
        let output = tokio::task::spawn_blocking(move || {
            bioxen(&args.iter().map(String::as_str).collect::<Vec<_>>())
        })
        .await
        .unwrap();
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(125), "{said}");
        assert_eq!(stdout(&output), "");
        assert_eq!(said.lines().count(), 1, "more than one line:\n{said}");
        assert!(!said.contains(PASSWORD), "the password shows: {said}");
        assert_eq!(self.vms().await, before, "something was left in the pool");
        said
    }

    async fn vms(&self) -> usize {
        let client = xapi_client::Client::over(self.sim.transport())
            .credentials("root", SecretString::from(PASSWORD.to_owned()))
            .login()
            .await
            .unwrap();
        let vms = client.vm().get_all().await.unwrap().len();
        client.close().await.unwrap();
        vms
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_input_ends_in_one_line_with_the_remedy_and_leaves_nothing() {
    let pool = Pool::start().await;
    for (settings, parts) in [
        (
            &["template=lua-bio-templat"][..],
            &["lua-bio-templat", "lua-bio-template"][..],
        ),
        (&["memory=64MB"], &["lua-bio-template", "512"]),
        (
            &["network=LAN of my dreams"],
            &["LAN of my dreams", "Pool-wide network"],
        ),
        (&["password=wrong"], &["password", "root"]),
        (&["tls.fingerprint="], &["fingerprint"]),
        (&["template=Debian Bookworm 12"], &["Debian Bookworm 12"]),
        (&["memry=2GB"], &["memry", "memory"]),
        (&["memory=lots", "vcpus=0"], &["memory", "lots"]),
        (&["xcpng_host=127.0.0.1:9"], &["127.0.0.1", "9"]),
    ] {
        let said = pool.refuses(settings).await;
        for part in parts {
            assert!(
                said.contains(part),
                "{settings:?}: {part:?} is missing in: {said}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_certificate_shows_the_fingerprint_to_compare() {
    let pool = Pool::start().await;
    let host = format!("xcpng_host={}", pool.server.address());
    let output = tokio::task::spawn_blocking(move || {
        bioxen(&[
            "run",
            "-t",
            "xcpng",
            "-e",
            "x=1",
            "-s",
            &host,
            "-s",
            "template=lua-bio-template",
        ])
    })
    .await
    .unwrap();
    let said = stderr(&output);
    let print = pool.server.fingerprint().unwrap().to_string();
    assert!(said.contains(&print), "{print} is missing in: {said}");
    assert!(
        said.contains("tls.fingerprint"),
        "the key to set is missing in: {said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn gc_tells_what_it_would_remove_and_removes_it() {
    let pool = Pool::start().await;
    let client = xapi_client::Client::over(pool.sim.transport())
        .credentials("root", SecretString::from(PASSWORD.to_owned()))
        .login()
        .await
        .unwrap();
    let template = client.vm().get_by_name_label("lua-bio-template").await;
    let name = "bioxen-unfinished-0123456789abcdef-1-0-run";
    let left = client
        .vm()
        .clone(&template.unwrap()[0], name)
        .await
        .unwrap();
    let host = format!("xcpng_host={}", pool.server.address());
    let pin = format!("tls.fingerprint={}", pool.server.fingerprint().unwrap());
    let settings = ["-s", &host, "-s", &pin, "-s", "template=lua-bio-template"];
    let gc = |more: &'static str| {
        let args: Vec<String> = ["gc"]
            .iter()
            .chain(&settings)
            .map(|arg| (*arg).to_owned())
            .collect();
        async move {
            let run = move || {
                let args = args
                    .iter()
                    .map(String::as_str)
                    .chain((!more.is_empty()).then_some(more));
                bioxen(&args.collect::<Vec<_>>())
            };
            tokio::task::spawn_blocking(run).await.unwrap()
        }
    };
    let told = gc("--dry-run").await;
    assert!(
        stdout(&told).starts_with(&format!("would remove VM {name} (")),
        "{told:?}"
    );
    assert!(client.vm().get_uuid(&left).await.is_ok());
    let removed = gc("--json").await;
    let one: serde_json::Value = serde_json::from_str(&stdout(&removed)).unwrap();
    assert_eq!(
        (&one["kind"], &one["problem"]),
        (&"vm".into(), &serde_json::Value::Null)
    );
    assert!(client.vm().get_uuid(&left).await.is_err());
    assert_eq!(stdout(&gc("").await), "nothing is left on the pool\n");
    client.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_doctor_tells_each_check_and_ends_with_what_it_found() {
    let pool = Pool::start().await;
    let host = format!("xcpng_host={}", pool.server.address());
    let pin = format!("tls.fingerprint={}", pool.server.fingerprint().unwrap());
    let network = "network=Pool-wide network associated with eth0";
    let doctor = |more: &'static [&'static str]| {
        let mut args: Vec<String> = ["doctor", "--no-vm", "-s", network, "-s"]
            .map(str::to_owned)
            .into();
        args.extend([host.clone(), "-s".to_owned(), pin.clone()]);
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        async move {
            let run = move || bioxen(&args.iter().map(String::as_str).collect::<Vec<_>>());
            tokio::task::spawn_blocking(run).await.unwrap()
        }
    };
    let output = doctor(&["-s", "template=lua-bio-template"]).await;
    let said = stdout(&output);
    assert_eq!(output.status.code(), Some(0), "{said}{}", stderr(&output));
    assert!(
        said.contains("good     template: \"lua-bio-template\""),
        "{said}"
    );
    assert!(
        said.ends_with("nothing is wrong, 12 not looked at\n"),
        "{said}"
    );

    let output = doctor(&["--json", "-s", "template=lua", "-s", "memory=2GB"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    let findings: Vec<serde_json::Value> = said
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let verdict = |code: &str| {
        let found = findings.iter().find(|finding| finding["code"] == code);
        found.unwrap()["verdict"].clone()
    };
    assert_eq!(verdict("template"), "failed");
    assert_eq!(verdict("memory"), "good");
    assert_eq!(verdict("ssh"), "skipped");

    // A wrong configuration is a finding too, with where it comes from.
    let output = doctor(&["-s", "memroy=2GB"]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(
        said.contains("failed   config: --set: memroy: unknown key"),
        "{said}"
    );
    assert!(said.contains("template is missing"), "{said}");
}
