//! Who may do what.

#![allow(clippy::unwrap_used, reason = "a test fails where its helpers do")]

mod common;

use common::{Pool, ended, pool, pool_of, text};
use xapi_sim::{
    Error, Failure, GuestMode, Model, Release, SecretString, Sim, SimOptions, UserSpec, Value,
};

fn secret(text: &str) -> SecretString {
    SecretString::from(text.to_owned())
}

fn model() -> Model {
    let user = |name: &str| UserSpec::new(name, secret(name));
    Model::single_host()
        .user(user("reader").role("read-only"))
        .user(user("operator").role("vm-operator"))
        .user(user("admin").role("vm-admin"))
        .user(user("boss").role("pool-admin"))
        .user(user("stranger"))
}

async fn try_login(sim: &Sim, name: &str, originator: &str) -> Result<String, Failure> {
    let params = vec![name.into(), name.into(), "1.0".into(), originator.into()];
    let session = sim.call("session.login_with_password", params).await?;
    Ok(text(&session))
}

/// The same pool, through the session of somebody else.
async fn as_user(pool: Pool, name: &str) -> Pool {
    let session = try_login(&pool.sim, name, "tests").await.unwrap();
    Pool { session, ..pool }
}

#[tokio::test]
async fn a_role_permits_what_weaker_roles_permit_and_no_more() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    let pool = as_user(pool, "operator").await;
    assert_eq!(text(&pool.get("VM", "name_label", &vm).await), "worker");
    pool.start(&vm).await;
    assert_eq!(
        pool.fails("VM.destroy", vec![vm.as_str().into()]).await,
        "RBAC_PERMISSION_DENIED|vm.destroy|No permission in user session. (Roles with this \
         permission: vm-power-admin, vm-admin, pool-admin, pool-operator)"
    );
    let pool = as_user(pool, "reader").await;
    let refused = pool
        .fails("VM.hard_shutdown", vec![vm.as_str().into()])
        .await;
    assert!(refused.starts_with("RBAC_PERMISSION_DENIED|vm.hard_shutdown|"));
}

#[tokio::test]
async fn what_nobody_knows_could_be_an_extension_and_that_takes_an_administrator() {
    let pool = as_user(pool_of(model(), SimOptions::default()).await, "admin").await;
    assert_eq!(
        pool.fails("VM.frobnicate", vec![]).await,
        "RBAC_PERMISSION_DENIED|host.call_extension|No permission in user session. (Roles with \
         this permission: pool-admin)"
    );
    let pool = as_user(pool, "boss").await;
    assert_eq!(
        pool.fails("VM.frobnicate", vec![]).await,
        "MESSAGE_METHOD_UNKNOWN|VM.frobnicate"
    );
}

#[tokio::test]
async fn rights_are_checked_inside_the_task() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    let pool = as_user(pool, "reader").await;
    let args = vec![vm.into(), false.into(), false.into()];
    let task = text(&pool.call("Async.VM.start", args).await);
    let record = ended(&pool, &task).await;
    assert_eq!(record.get("status"), Some(&Value::from("failure")));
    let info = record.get("error_info").unwrap().items().to_vec();
    assert_eq!(
        info[..2],
        ["RBAC_PERMISSION_DENIED".into(), "vm.start".into()]
    );
}

#[tokio::test]
async fn some_keys_of_maps_have_roles_of_their_own() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let vm = pool.vm("worker").await;
    let pair = |key: &str| vec![vm.as_str().into(), key.into(), "x".into()];
    let pool = as_user(pool, "operator").await;
    pool.call(
        "VM.add_to_other_config",
        pair("XenCenter.CustomFields.owner"),
    )
    .await;
    let refused = pool.fails("VM.add_to_other_config", pair("mine")).await;
    assert!(refused.starts_with("RBAC_PERMISSION_DENIED|vm.add_to_other_config|"));
    let pool = as_user(pool, "admin").await;
    pool.call("VM.add_to_other_config", pair("mine")).await;
    assert_eq!(
        pool.fails("VM.add_to_other_config", pair("pci")).await,
        "RBAC_PERMISSION_DENIED|vm.add_to_other_config/key:pci|No permission in user session. \
         (Roles with this permission: pool-admin)"
    );
    let pool = as_user(pool, "boss").await;
    pool.call("VM.add_to_other_config", pair("pci")).await;
}

#[tokio::test]
async fn sessions_tell_whose_they_are() {
    let pool = as_user(pool_of(model(), SimOptions::default()).await, "operator").await;
    let session = vec![pool.session.as_str().into()];
    let record = pool.call("session.get_record", session).await;
    assert_eq!(record.get("auth_user_name"), Some(&"operator".into()));
    assert_eq!(record.get("is_local_superuser"), Some(&false.into()));
    let permissions = record.get("rbac_permissions").unwrap().items().to_vec();
    assert!(permissions.contains(&"vm.start".into()));
    assert!(!permissions.contains(&"vm.destroy".into()));
    let subject = text(record.get("subject").unwrap());
    let sid = pool.get("subject", "subject_identifier", &subject).await;
    assert_eq!(record.get("auth_user_sid"), Some(&sid));
    let named = pool
        .call("auth.get_subject_identifier", vec!["operator".into()])
        .await;
    assert_eq!(named, sid);
    let host = text(&pool.call("host.get_all", vec![]).await.items()[0]);
    let service = pool.get("host", "external_auth_type", &host).await;
    assert_eq!(text(&service), "AD");
}

#[tokio::test]
async fn a_subject_without_a_role_cannot_log_in() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let sid = pool
        .call("auth.get_subject_identifier", vec!["stranger".into()])
        .await;
    let refused = try_login(&pool.sim, "stranger", "").await.unwrap_err();
    assert_eq!(refused.code, "SESSION_AUTHORIZATION_FAILED");
    assert_eq!(refused.params[0], "stranger");

    let record = Value::Struct(vec![
        ("subject_identifier".to_owned(), sid),
        ("other_config".to_owned(), Value::Struct(Vec::new())),
    ]);
    let subject = pool.call("subject.create", vec![record.clone()]).await;
    assert_eq!(
        pool.fails("subject.create", vec![record]).await,
        "SUBJECT_ALREADY_EXISTS"
    );
    try_login(&pool.sim, "stranger", "").await.unwrap_err();
    let role = pool
        .call("role.get_by_name_label", vec!["vm-operator".into()])
        .await
        .items()[0]
        .clone();
    let both = vec![subject.clone(), role];
    pool.call("subject.add_to_roles", both.clone()).await;
    assert_eq!(
        pool.fails("subject.add_to_roles", both.clone()).await,
        "ROLE_ALREADY_EXISTS"
    );
    try_login(&pool.sim, "stranger", "").await.unwrap();
    pool.call("subject.remove_from_roles", both.clone()).await;
    assert_eq!(
        pool.fails("subject.remove_from_roles", both).await,
        "ROLE_NOT_FOUND"
    );
    try_login(&pool.sim, "stranger", "").await.unwrap_err();
}

#[tokio::test]
async fn roles_are_permissions_with_a_name() {
    let pool = pool().await;
    let by_permission = |label: &str| vec![Value::from(label)];
    let able = pool
        .call(
            "role.get_by_permission_name_label",
            by_permission("vm.destroy"),
        )
        .await;
    let mut names = Vec::new();
    for role in able.items() {
        names.push(text(&pool.get("role", "name_label", &text(role)).await));
    }
    assert_eq!(
        names,
        ["vm-power-admin", "vm-admin", "pool-admin", "pool-operator"]
    );
    let uuid = "0165f154-ba3e-034e-6b27-5d271af109ba";
    let admin = pool.call("role.get_by_uuid", vec![uuid.into()]).await;
    assert_eq!(text(&admin), format!("OpaqueRef:{uuid}"));
    let record = pool.call("role.get_record", vec![admin.clone()]).await;
    assert_eq!(record.get("name_label"), Some(&"pool-admin".into()));
    let permissions = pool.call("role.get_permissions", vec![admin]).await;
    assert_eq!(record.get("subroles"), Some(&permissions));
    assert_eq!(
        pool.fails("role.get_record", vec!["OpaqueRef:x".into()])
            .await,
        "HANDLE_INVALID|role|OpaqueRef:x"
    );
}

#[tokio::test]
async fn sessions_of_a_user_are_counted_together_whatever_their_program() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let first = try_login(&pool.sim, "reader", "0").await.unwrap();
    let idle = try_login(&pool.sim, "operator", "0").await.unwrap();
    for number in 0..500 {
        try_login(&pool.sim, "reader", &number.to_string())
            .await
            .unwrap();
    }
    let gone = pool.sim.call("VM.get_all", vec![first.into()]).await;
    assert_eq!(gone.unwrap_err().code, "SESSION_INVALID");
    pool.sim
        .call("VM.get_all", vec![idle.into()])
        .await
        .unwrap();
}

#[tokio::test]
async fn somebody_can_be_logged_out_by_others() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let session = try_login(&pool.sim, "reader", "").await.unwrap();
    let sids = pool
        .call("session.get_all_subject_identifiers", vec![])
        .await;
    assert_eq!(sids.items().len(), 1);
    let sid = sids.items()[0].clone();
    pool.call("session.logout_subject_identifier", vec![sid])
        .await;
    let gone = pool.sim.call("VM.get_all", vec![session.into()]).await;
    assert_eq!(gone.unwrap_err().code, "SESSION_INVALID");
}

#[tokio::test]
async fn only_root_has_a_password_to_change() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let passwords = || vec!["whatever".into(), "new".into()];
    pool.call("session.change_password", passwords()).await;
    let old = vec!["root".into(), "whatever".into(), "1.0".into()];
    let refused = pool.sim.call("session.login_with_password", old).await;
    assert_eq!(refused.unwrap_err().code, "SESSION_AUTHENTICATION_FAILED");
    let new = vec!["root".into(), "new".into(), "1.0".into()];
    pool.sim
        .call("session.login_with_password", new)
        .await
        .unwrap();
    let pool = as_user(pool, "boss").await;
    assert_eq!(
        pool.fails("session.change_password", passwords()).await,
        "RBAC_PERMISSION_DENIED|session.change_password|No permission in user session. (Roles \
         with this permission: )"
    );
}

#[tokio::test]
async fn what_hosts_say_to_each_other_is_refused_to_everybody() {
    let pool = pool().await;
    let host = pool.call("host.get_all", vec![]).await.items()[0].clone();
    assert_eq!(
        pool.fails("host.sync_vlans", vec![host]).await,
        "INTERNAL_ERROR|Internal API call attempted with non-pool (external) session"
    );
    assert!(pool.sim.unimplemented().is_empty());
}

#[tokio::test]
async fn a_model_with_an_unknown_role_is_refused() {
    let user = UserSpec::new("x", secret("x")).role("king");
    let options = SimOptions::default().with_guests(GuestMode::Simulated);
    let started = Sim::start(Model::new().user(user), options).await;
    let Err(Error::Model { reason }) = started else {
        panic!("{started:?}");
    };
    assert_eq!(
        reason,
        "user x has the role king, which does not exist; use one of read-only, vm-operator, \
         vm-admin, vm-power-admin, pool-operator, pool-admin"
    );
}

#[tokio::test]
async fn an_old_release_refuses_strangers_in_its_own_words() {
    let pool = pool_of(model().release(Release::Xcpng82), SimOptions::default()).await;
    let refused = try_login(&pool.sim, "stranger", "").await.unwrap_err();
    assert_eq!(refused.code, "SESSION_AUTHENTICATION_FAILED");
}

#[tokio::test]
async fn tasks_of_others_are_theirs() {
    let pool = pool_of(model(), SimOptions::default()).await;
    let create = || vec!["mine".into(), "".into()];
    let task = text(&pool.call("task.create", create()).await);
    let pool = as_user(pool, "operator").await;
    for method in ["task.cancel", "task.destroy"] {
        let refused = pool.fails(method, vec![task.as_str().into()]).await;
        let expected = "RBAC_PERMISSION_DENIED|task.destroy/any|";
        assert!(refused.starts_with(expected), "{refused}");
    }
    let own = text(&pool.call("task.create", create()).await);
    pool.call("task.cancel", vec![own.as_str().into()]).await;
    let pool = as_user(pool, "boss").await;
    pool.call("task.cancel", vec![own.into()]).await;
}
