//! Tasks: their end, their cancelling, and what becomes of them.

use crate::common::{ended, pool, text};
use xapi_sim::{FaultRule, Value};

#[tokio::test]
async fn tasks_end_well_or_not() {
    let pool = pool().await;
    let template = pool.template().await;
    let args = vec![template.as_str().into(), "copy".into()];
    let task = text(&pool.call("Async.VM.clone", args).await);
    let record = ended(&pool, &task).await;
    assert_eq!(
        record.get("name_label"),
        Some(&Value::from("Async.VM.clone"))
    );
    assert_eq!(record.get("status"), Some(&Value::from("success")));
    assert_eq!(record.get("progress"), Some(&Value::Float(1.0)));
    assert_eq!(record.get("type"), Some(&Value::from("<none/>")));
    let result = text(record.get("result").unwrap());
    let copy = result
        .strip_prefix("<value>")
        .and_then(|r| r.strip_suffix("</value>"))
        .unwrap();
    assert_eq!(text(&pool.get("VM", "name_label", copy).await), "copy");

    let args = vec![template.as_str().into(), false.into(), false.into()];
    let task = text(&pool.call("Async.VM.start", args).await);
    let record = ended(&pool, &task).await;
    assert_eq!(record.get("status"), Some(&Value::from("failure")));
    assert_eq!(record.get("result"), Some(&Value::from("")));
    assert_eq!(
        record.get("error_info"),
        Some(&Value::strings([
            "VM_IS_TEMPLATE",
            template.as_str(),
            "start"
        ]))
    );
    assert_eq!(
        record.get("allowed_operations"),
        Some(&Value::Array(vec![]))
    );
    let trace = text(record.get("backtrace").unwrap());
    assert!(
        trace.starts_with("(((process\"/opt/xensource/bin/xapi @ xcp-ng\")(filename ")
            && trace.ends_with("(is_raise false)))"),
        "{trace}"
    );
    pool.call("task.destroy", vec![task.as_str().into()]).await;
    assert_eq!(
        pool.fails("task.get_record", vec![task.as_str().into()])
            .await,
        format!("HANDLE_INVALID|task|{task}")
    );
}

#[tokio::test]
async fn a_task_tells_how_often_its_cancelling_was_possible() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    pool.reported(&vm).await;
    let task = text(&pool.call("Async.VM.clean_shutdown", vec![vm.into()]).await);
    let record = ended(&pool, &task).await;
    assert_eq!(
        record.get("other_config"),
        Some(&Value::map([("debug_info:cancel_points_seen", "11")]))
    );
    assert_eq!(record.get("backtrace"), Some(&Value::from("()")));
}

#[tokio::test(start_paused = true)]
async fn tasks_can_be_cancelled() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    let hour = std::time::Duration::from_secs(3600);
    pool.sim.inject(FaultRule::method("VM.start").delay(hour));
    let args = || vec![vm.as_str().into(), false.into(), false.into()];
    let task = text(&pool.call("Async.VM.start", args()).await);
    let record = pool
        .call("task.get_record", vec![task.as_str().into()])
        .await;
    assert_eq!(record.get("status"), Some(&Value::from("pending")));
    assert_eq!(
        record.get("allowed_operations"),
        Some(&Value::strings(["cancel"]))
    );
    // A pending task cannot be destroyed, and no failure says so.
    pool.call("task.destroy", vec![task.as_str().into()]).await;
    assert_eq!(
        pool.get("task", "current_operations", &task).await,
        Value::map([("task", "destroy")])
    );
    pool.call("task.cancel", vec![task.as_str().into()]).await;
    let record = ended(&pool, &task).await;
    assert_eq!(record.get("status"), Some(&Value::from("cancelled")));
    assert_eq!(
        record.get("error_info"),
        Some(&Value::strings(["TASK_CANCELLED", task.as_str()]))
    );
    assert_eq!(pool.state(&vm).await, "Halted");
    pool.sim.clear_faults();
    pool.start(&vm).await;
}

#[tokio::test]
async fn a_pending_task_is_marked_and_not_destroyed() {
    let pool = pool().await;
    let task = text(&pool.call("task.create", vec!["t".into(), "".into()]).await);
    let this = || vec![Value::from(task.as_str())];
    pool.call("task.cancel", this()).await;
    pool.call("task.destroy", this()).await;
    let operations = pool.get("task", "current_operations", &task).await;
    assert_eq!(operations.get("task"), Some(&"destroy".into()));
    assert_eq!(operations.members().len(), 2, "the cancelling stays");
    assert_eq!(
        pool.fails("task.destroy", this()).await,
        format!("MAP_DUPLICATE_KEY|task|current_operations|{task}|task")
    );
    let done = vec![task.as_str().into(), "success".into()];
    pool.call("task.set_status", done).await;
    assert_eq!(
        pool.get("task", "finished", &task).await,
        Value::DateTime("19700101T00:00:00Z".to_owned())
    );
    pool.call("task.destroy", this()).await;
    pool.fails("task.get_status", this()).await;
}

#[tokio::test]
async fn synchronous_calls_leave_no_task() {
    let pool = pool().await;
    let vm = pool.vm("worker").await;
    pool.start(&vm).await;
    assert!(pool.call("task.get_all", vec![]).await.items().is_empty());
    let mine = pool
        .call("task.create", vec!["mine".into(), "of a client".into()])
        .await;
    pool.call("task.cancel", vec![mine.clone()]).await;
    assert_eq!(
        pool.get("task", "status", mine.as_str().unwrap()).await,
        Value::from("pending")
    );
    pool.call("task.set_status", vec![mine.clone(), "success".into()])
        .await;
    pool.call("task.destroy", vec![mine]).await;
}

#[tokio::test]
async fn ended_tasks_vanish_when_there_are_too_many() {
    let pool = pool().await;
    let mut tasks = Vec::new();
    for index in 0..250 {
        let task = pool
            .call("task.create", vec![index.to_string().into(), "".into()])
            .await;
        pool.call("task.set_status", vec![task.clone(), "success".into()])
            .await;
        tasks.push(text(&task));
    }
    let left = pool.call("task.get_all", vec![]).await;
    assert_eq!(left.items().len(), 200);
    assert_eq!(
        pool.fails("task.get_record", vec![tasks[0].as_str().into()])
            .await,
        format!("HANDLE_INVALID|task|{}", tasks[0])
    );
}
