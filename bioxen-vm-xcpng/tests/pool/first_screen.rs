//! What a newcomer gets wrong ends in one clear line, and leaves nothing.

use bioxen_vm_core::{Backend, ErrorKind, VmId};
use bioxen_vm_xcpng::XcpngBackend;
use serde_json::{Value, json};
use xapi_sim::{GuestMode, Model, SimOptions, SrSpec, TemplateSpec};

use crate::config_drive::NETWORK;
use crate::lab::Lab;

/// What creating (or starting) a VM with these changes to a good configuration says.
async fn refusal(lab: &Lab, changes: Value) -> (ErrorKind, String) {
    let before = lab.inventory().await;
    let backend = XcpngBackend::new(lab.config(changes)).unwrap();
    let error = backend.create(VmId::new("vm1").unwrap()).await.unwrap_err();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    let mut cause: Option<&dyn std::error::Error> = std::error::Error::source(&error);
    while let Some(source) = cause {
        assert!(
            !message.contains(&source.to_string()),
            "{message} repeats {source}"
        );
        cause = source.source();
    }
    (error.kind(), message)
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_names_and_numbers() {
    let lab = Lab::records_only().await;
    for (changes, kind, words) in [
        (
            json!({"template": "lua-bio-templte"}),
            ErrorKind::NotFound,
            &[
                "no template \"lua-bio-templte\"",
                "there are: \"lua-bio-template\"",
            ][..],
        ),
        (
            json!({"memory": "64MB"}),
            ErrorKind::Config,
            &[
                "64 MiB",
                "below the minimum of the template \"lua-bio-template\"",
                "at least",
            ],
        ),
        (
            json!({"network": "no-such"}),
            ErrorKind::NotFound,
            &["no network \"no-such\"", "there are:"],
        ),
        (
            json!({"sr": "no-such", "clone": "copy"}),
            ErrorKind::NotFound,
            &["no storage repository \"no-such\"", "there are:"],
        ),
    ] {
        let (found, message) = refusal(&lab, changes).await;
        assert_eq!(found, kind, "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} in {message}");
        }
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_template() {
    let model = Model::single_host()
        .sr(SrSpec::shared("more"))
        .template(TemplateSpec::with_empty_disk("twice").vif(NETWORK))
        .template(TemplateSpec::with_empty_disk("twice").vif(NETWORK))
        .template(TemplateSpec::built_in("blank", 8 << 30));
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(model, options).await;
    let (kind, message) = refusal(&lab, json!({"template": "twice"})).await;
    assert_eq!(kind, ErrorKind::Config);
    let (_, uuids) = message.split_once("instead: ").unwrap();
    assert_eq!(uuids.split(", ").count(), 2, "{message}");
    for uuid in uuids.split(", ") {
        let backend = XcpngBackend::new(lab.config(json!({"template": uuid}))).unwrap();
        let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
        vm.destroy().await.unwrap();
        backend.close().await.unwrap();
    }
    let (kind, message) = refusal(&lab, json!({"template": "blank"})).await;
    assert_eq!(kind, ErrorKind::Config);
    assert!(message.contains("\"blank\" has no disk"), "{message}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_that_cannot_be_logged_in_to() {
    let lab = Lab::records_only().await;
    let fingerprint = lab.server.fingerprint().unwrap().to_string();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = free.local_addr().unwrap().to_string();
    drop(free);
    let other = "00:".repeat(31) + "00";
    for (changes, kind, words) in [
        (
            json!({"password": "wrong horse"}),
            ErrorKind::Denied,
            &[
                "refuses the password of user \"root\"",
                "check username and password",
            ][..],
        ),
        (
            json!({"xcpng_host": closed}),
            ErrorKind::Unavailable,
            &["cannot reach 127.0.0.1 on port", "correct xcpng_host"],
        ),
        (
            json!({"tls": {}}),
            ErrorKind::Denied,
            &[
                "not trusted",
                "tls.fingerprint",
                "`bioxen trust ",
                &fingerprint,
            ],
        ),
        (
            json!({"tls": {"fingerprint": other}}),
            ErrorKind::Denied,
            &["not trusted", &fingerprint],
        ),
        (
            json!({"password": null, "password_file": "/no/such/file"}),
            ErrorKind::Config,
            &["/no/such/file", "password_file"],
        ),
    ] {
        let (found, message) = refusal(&lab, changes).await;
        assert_eq!(found, kind, "{message}");
        for word in words {
            assert!(message.contains(word), "{word:?} in {message}");
        }
        assert!(!message.contains("horse"), "{message}");
    }
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_host_of_a_pool_is_used_when_the_first_is_down() {
    let lab = Lab::records_only().await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = free.local_addr().unwrap().to_string();
    drop(free);
    let hosts = json!([closed, lab.server.address().to_string()]);
    let backend = XcpngBackend::new(lab.config(json!({"xcpng_host": hosts}))).unwrap();
    backend.plan(&VmId::new("vm1").unwrap()).await.unwrap();
    backend.close().await.unwrap();
    let error = backend.plan(&VmId::new("vm1").unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidState, "{error}");
    lab.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_that_never_reports_an_address_says_why() {
    let mute = TemplateSpec::with_empty_disk("mute").vif(NETWORK);
    let model = Model::single_host().template(mute);
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let lab = Lab::with(model, options).await;
    let before = lab.inventory().await;
    let changes = json!({"template": "mute", "boot_timeout": "1s"});
    let backend = XcpngBackend::new(lab.config(changes)).unwrap();
    let vm = backend.create(VmId::new("vm1").unwrap()).await.unwrap();
    let error = vm.start().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let message = error.to_string();
    let told =
        "VM vm1: cannot start: the VM has no address after 1 s: its guest tools have not reported";
    assert!(message.starts_with(told), "{message}");
    vm.destroy().await.unwrap();
    backend.close().await.unwrap();
    assert_eq!(lab.inventory().await, before);
    lab.end().await;
}
