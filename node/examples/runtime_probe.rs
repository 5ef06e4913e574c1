//! Drives a container engine by hand, call by call, as a site does during a handoff:
//!
//! ```text
//! site A> runtime_probe deploy counter IMAGE 10.50.0.10
//! site A> runtime_probe describe ID /dir && runtime_probe freeze ID /dir       (copy /dir to site B)
//! site B> runtime_probe prepare ID /dir && runtime_probe resume ID /dir
//! site A> runtime_probe route 10.50.0.10 B && runtime_probe release ID         (or: thaw ID /dir)
//! ```
//!
//! Answers are JSON, one line each, with the time the call took.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Instant;

use clap::{Parser, Subcommand};
use futures::StreamExt;
use godwit::runtime::docker::{Config, DockerRuntime};
use godwit::runtime::{Deploy, Error, Logs, Port, Protocol, Range, Runtime, Way, doctor};
use godwit_protocol::container::Kind;
use godwit_protocol::{Address, Bytes, ContainerId, ImageId, MeshId, MilliCpu};

#[derive(Parser)]
struct Arguments {
    #[arg(long, default_value = "/var/run/docker.sock")]
    socket: PathBuf,
    #[arg(long, default_value = "/var/lib/godwit/runtime")]
    state: PathBuf,
    #[command(subcommand)]
    call: Call,
}

#[derive(Subcommand)]
enum Call {
    Checks,
    Deploy {
        name: String,
        image: String,
        address: Ipv4Addr,
        #[arg(long)]
        stateless: bool,
        #[arg(long, default_value_t = 512)]
        memory_mb: u64,
        /// SITE:CONTAINER
        #[arg(long)]
        port: Vec<String>,
        #[arg(last = true)]
        command: Vec<String>,
    },
    List,
    State {
        container: ContainerId,
    },
    Start {
        container: ContainerId,
    },
    Stop {
        container: ContainerId,
    },
    Remove {
        container: ContainerId,
    },
    Logs {
        container: ContainerId,
    },
    Usage,
    Describe {
        container: ContainerId,
        dir: PathBuf,
    },
    HasImage {
        image: ImageId,
    },
    SaveImage {
        image: ImageId,
        dir: PathBuf,
    },
    LoadImage {
        image: ImageId,
        dir: PathBuf,
    },
    Prepare {
        container: ContainerId,
        dir: PathBuf,
    },
    Freeze {
        container: ContainerId,
        dir: PathBuf,
    },
    Resume {
        container: ContainerId,
        dir: PathBuf,
    },
    Thaw {
        container: ContainerId,
        dir: PathBuf,
    },
    Discard {
        container: ContainerId,
    },
    Release {
        container: ContainerId,
    },
    /// WAY is `here`, `nowhere` or a site's address
    Route {
        address: Ipv4Addr,
        way: String,
    },
    Ways,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments = Arguments::parse();
    let criu = PathBuf::from("criu");
    if let Call::Checks = arguments.call {
        for check in doctor::checks(&arguments.socket, &criu, &arguments.state).await {
            println!("{}", serde_json::to_string(&check)?);
        }
        return Ok(());
    }
    let range = Range { network: Ipv4Addr::new(10, 50, 0, 0), prefix: 16 };
    let config = Config { socket: arguments.socket, state: arguments.state, criu, mesh: MeshId([0x6d; 32]), range };
    let runtime = DockerRuntime::connect(config).await?;
    let started = Instant::now();
    let answer = call(&runtime, arguments.call).await;
    let ms = started.elapsed().as_millis();
    match answer {
        Ok(answer) => println!(r#"{{"ms":{ms},"answer":{answer}}}"#),
        Err(error) => {
            let remedy = error.downcast_ref::<Error>().and_then(|error| error.cause.remedy());
            println!("{}", serde_json::json!({"ms": ms, "error": format!("{error:#}"), "remedy": remedy}));
            std::process::exit(1);
        }
    }
    Ok(())
}

async fn call(runtime: &DockerRuntime, call: Call) -> anyhow::Result<String> {
    fn json(value: impl serde::Serialize) -> anyhow::Result<String> {
        Ok(serde_json::to_string(&value)?)
    }
    match call {
        Call::Checks => json(runtime.checks().await),
        Call::Deploy { name, image, address, stateless, memory_mb, port, command } => {
            let container = ContainerId(rand::random());
            let deploy = Deploy {
                container,
                name,
                image,
                command,
                env: Vec::new(),
                ports: port.iter().map(|text| published(text)).collect::<anyhow::Result<_>>()?,
                cpu: MilliCpu(1000),
                memory: Bytes(memory_mb << 20),
                gpu: 0,
                address: Address(address),
                hostname: None,
                kind: if stateless { Kind::Stateless } else { Kind::Stateful },
            };
            json((container, runtime.deploy(deploy).await?))
        }
        Call::List => json(runtime.list().await?),
        Call::State { container } => json(runtime.state(container).await?),
        Call::Start { container } => json(runtime.start(container).await?),
        Call::Stop { container } => json(runtime.stop(container).await?),
        Call::Remove { container } => json(runtime.remove(container).await?),
        Call::Logs { container } => {
            let mut lines = runtime.logs(container, Logs::default()).await?;
            let mut text = String::new();
            while let Some(line) = lines.next().await {
                text += &String::from_utf8_lossy(&line?.bytes);
            }
            json(text)
        }
        Call::Usage => {
            runtime.usage().await?;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            json(runtime.usage().await?)
        }
        Call::Describe { container, dir } => json(runtime.describe(container, dir).await?),
        Call::HasImage { image } => json(runtime.image_present(image).await?),
        Call::SaveImage { image, dir } => json(runtime.save_image(image, dir).await?),
        Call::LoadImage { image, dir } => json(runtime.load_image(image, dir).await?),
        Call::Prepare { container, dir } => json(runtime.prepare(container, dir).await?),
        Call::Freeze { container, dir } => json(runtime.freeze(container, dir).await?),
        Call::Resume { container, dir } => json(runtime.resume(container, dir).await?),
        Call::Thaw { container, dir } => json(runtime.thaw(container, dir).await?),
        Call::Discard { container } => json(runtime.discard(container).await?),
        Call::Release { container } => json(runtime.release(container).await?),
        Call::Route { address, way } => {
            let way = match way.as_str() {
                "here" => Way::Here,
                "nowhere" => Way::Nowhere,
                site => Way::Via(site.parse()?),
            };
            json(runtime.route(Address(address), way).await?)
        }
        Call::Ways => json(runtime.ways().await?),
    }
}

fn published(text: &str) -> anyhow::Result<Port> {
    let (site, container) = text.split_once(':').ok_or_else(|| anyhow::anyhow!("--port SITE:CONTAINER"))?;
    Ok(Port { site: site.parse()?, container: container.parse()?, protocol: Protocol::Tcp })
}
