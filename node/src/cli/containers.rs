//! `deploy`, `ps`, `stop`, `rm`, `logs`.

use futures::StreamExt;
use godwit_protocol::bounded::{List, Text, TooLong};
use godwit_protocol::container::Kind;
use reqwest::Method;

use super::args::DeployArgs;
use super::client::ApiClient;
use super::failure::Failure;
use super::out::{Out, measure_bytes};
use super::table::{bytes, cores, short, span, table};
use crate::api::site::Notice;
use crate::api::view::{ContainerState, ContainerView, Deploy, LogLine, Stream};

/// `godwit deploy`.
pub async fn deploy(api: &ApiClient, args: DeployArgs, out: Out) -> Result<(), Failure> {
    let deploy = request(args)?;
    let bar = out.progress(&format!("deploy {}", deploy.image));
    // Listening first: the pull may begin at once.
    let mut notices = api.notices().await?;
    let answered = api.post::<_, ContainerView>(&["v1", "containers"], &deploy);
    tokio::pin!(answered);
    let container = loop {
        tokio::select! {
            answer = &mut answered => break answer?,
            Some(Ok(Notice::Progress { subject, task, done, total })) = notices.next() => {
                if subject == deploy.image.as_str() {
                    measure_bytes(&bar, &task, done, total);
                }
            }
            else => break answered.await?,
        }
    };
    bar.finish_and_clear();
    out.show(&container, |container| format!("{}  {}  at {}\n", container.container, container.name, container.address))
}

fn request(args: DeployArgs) -> Result<Deploy, Failure> {
    let texts = |items: Vec<String>, what: &str| {
        items.iter().map(|item| plain(item, what)).collect::<Result<Vec<Text<4096>>, Failure>>()
    };
    Ok(Deploy {
        image: plain(&args.image, "IMAGE")?,
        name: args.name.as_deref().map(|name| plain(name, "--name")).transpose()?,
        cpu_m: args.cpus,
        memory_bytes: args.memory,
        gpu: args.gpu,
        ports: List::new(args.ports).map_err(|long| too_long("--publish", long))?,
        env: List::new(texts(args.env, "--env")?).map_err(|long| too_long("--env", long))?,
        command: List::new(texts(args.command, "CMD")?).map_err(|long| too_long("CMD", long))?,
        kind: if args.stateless { Kind::Stateless } else { Kind::Stateful },
        max_delay_ms: args.max_delay,
        clients: List::new(args.clients).map_err(|long| too_long("--client", long))?,
    })
}

/// A text of the wire, which has no control characters.
fn plain<const MAX: usize>(text: &str, what: &str) -> Result<Text<MAX>, Failure> {
    if text.chars().any(char::is_control) {
        let reason = "it has a control character, such as a line break".to_owned();
        return Err(Failure::Input {
            what: what.to_owned(),
            reason,
            remedy: "put it into the image, or a file".to_owned(),
        });
    }
    Text::new(text).map_err(|long| too_long(what, long))
}

fn too_long(what: &str, long: TooLong) -> Failure {
    Failure::Input { what: what.to_owned(), reason: long.to_string(), remedy: "make it shorter".to_owned() }
}

/// `godwit ps`.
pub async fn ps(api: &ApiClient, local: bool, out: Out) -> Result<(), Failure> {
    let containers: Vec<ContainerView> = api.get(&["v1", "containers"], &[("local", local.to_string())]).await?;
    out.show(&containers, |containers| containers_table(containers))
}

pub(super) fn containers_table(containers: &[ContainerView]) -> String {
    let row = |container: &ContainerView| {
        let usage = container.usage.as_ref();
        vec![
            container.name.clone(),
            short(&container.container),
            container.image.clone(),
            container.owner_name.clone(),
            state(container.state).to_owned(),
            container.address.to_string(),
            match usage {
                Some(usage) => format!("{} / {}", cores(usage.cpu_m), cores(container.cpu_m)),
                None => cores(container.cpu_m),
            },
            match usage {
                Some(usage) => format!("{} / {}", bytes(usage.memory_bytes), bytes(container.memory_bytes)),
                None => bytes(container.memory_bytes),
            },
            container.gpu.to_string(),
            span(container.max_delay_ms),
            container.epoch.0.saturating_sub(1).to_string(),
        ]
    };
    let headings =
        ["NAME", "CONTAINER", "IMAGE", "SITE", "STATE", "ADDRESS", ">CPU", ">MEMORY", ">GPU", ">MAX DELAY", ">MOVES"];
    table(&headings, &containers.iter().map(row).collect::<Vec<_>>())
}

fn state(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Running => "running",
        ContainerState::Moving => "moving",
        ContainerState::Frozen => "frozen",
        ContainerState::Stopped => "stopped",
        ContainerState::Failed => "failed",
    }
}

/// `godwit stop`.
pub async fn stop(api: &ApiClient, containers: &[String], out: Out) -> Result<(), Failure> {
    for container in containers {
        api.act(Method::POST, &["v1", "containers", container, "stop"], &[]).await?;
        done(out, container, "stopped")?;
    }
    Ok(())
}

/// `godwit rm`.
pub async fn remove(api: &ApiClient, containers: &[String], force: bool, out: Out) -> Result<(), Failure> {
    for container in containers {
        api.act(Method::DELETE, &["v1", "containers", container], &[("force", force.to_string())]).await?;
        done(out, container, "removed")?;
    }
    Ok(())
}

fn done(out: Out, container: &str, what: &str) -> Result<(), Failure> {
    if out.json {
        return out.json_line(&serde_json::json!({ "container": container, "done": what }));
    }
    out.text(&format!("{container} {what}\n"))
}

/// `godwit logs`: what the container wrote to standard output and error goes to ours.
pub async fn logs(api: &ApiClient, container: &str, tail: Option<u32>, follow: bool, out: Out) -> Result<(), Failure> {
    let mut query = vec![("follow", follow.to_string())];
    query.extend(tail.map(|tail| ("tail", tail.to_string())));
    let mut lines = api.json_lines::<LogLine>(&["v1", "containers", container, "logs"], &query, "log lines").await?;
    while let Some(line) = lines.next().await {
        let line = line?;
        match line.stream {
            _ if out.json => out.json_line(&line)?,
            Stream::Stdout => out.text(&format!("{}\n", line.line))?,
            Stream::Stderr => eprintln!("{}", line.line),
        }
    }
    Ok(())
}
