//! An engine that may come up after the site, go away and come back: connected to whenever it is needed.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use godwit_protocol::{Address, Bytes, ContainerId, ImageId};
use tokio::sync::Mutex;
use tracing::{info, warn};

use super::docker::{Config, DockerRuntime};
use super::{
    Answer, Check, Deploy, Deployed, Description, Error, Filled, Found, Frozen, LogStream, Logs, Resumed, Runtime,
    Spec, State, Usage, Way, doctor,
};

/// Docker, when it answers.
#[derive(Debug)]
pub struct Late {
    config: Config,
    docker: Mutex<Option<Arc<DockerRuntime>>>,
    /// What was asked for while there was no engine to make the network that routes lead to.
    ways: Mutex<BTreeMap<Address, Way>>,
}

impl Late {
    /// Connects with the first request.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, docker: Mutex::new(None), ways: Mutex::default() }
    }

    async fn get(&self) -> Result<Arc<DockerRuntime>, Error> {
        let mut docker = self.docker.lock().await;
        if let Some(docker) = docker.as_ref() {
            return Ok(Arc::clone(docker));
        }
        let connected = Arc::new(DockerRuntime::connect(self.config.clone()).await?);
        info!(socket = %self.config.socket.display(), "connected to the container engine");
        for (address, way) in self.ways.lock().await.iter() {
            if let Err(error) = connected.route(*address, *way).await {
                warn!(%address, %error, "a route is not set");
            }
        }
        *docker = Some(Arc::clone(&connected));
        Ok(connected)
    }
}

/// Hands each request on, as soon as there is somebody to take it.
macro_rules! hand_on {
    ($($name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)*) => {$(
        fn $name(&self, $($argument: $kind),*) -> Answer<'_, $answer> {
            Box::pin(async move { self.get().await?.$name($($argument),*).await })
        }
    )*};
}

impl Runtime for Late {
    hand_on! {
        deploy(deploy: Deploy) -> Deployed;
        list() -> Vec<Found>;
        state(container: ContainerId) -> State;
        start(container: ContainerId) -> ();
        stop(container: ContainerId) -> ();
        remove(container: ContainerId) -> ();
        logs(container: ContainerId, logs: Logs) -> LogStream;
        usage() -> Vec<Usage>;
        describe(container: ContainerId, dir: PathBuf) -> Description;
        image_present(image: ImageId) -> bool;
        save_image(image: ImageId, dir: PathBuf) -> Bytes;
        load_image(image: ImageId, dir: PathBuf) -> ();
        prepare(container: ContainerId, dir: PathBuf) -> Spec;
        freeze(container: ContainerId, dir: PathBuf) -> Frozen;
        ahead(container: ContainerId) -> UnixStream;
        receive(container: ContainerId, source: PathBuf) -> ();
        pages(container: ContainerId) -> UnixStream;
        restore(container: ContainerId, dir: PathBuf, pages: PathBuf) -> ();
        resume(container: ContainerId, dir: PathBuf, pages: PathBuf) -> Resumed;
        fill(container: ContainerId, dir: PathBuf, pages: PathBuf) -> Filled;
        thaw(container: ContainerId) -> Resumed;
        discard(container: ContainerId) -> ();
        release(container: ContainerId) -> ();
    }

    fn route(&self, address: Address, way: Way) -> Answer<'_, ()> {
        Box::pin(async move {
            self.ways.lock().await.insert(address, way);
            // Without an engine there is no network yet; the way is set when there is.
            match self.docker.lock().await.clone() {
                Some(docker) => docker.route(address, way).await,
                None => Ok(()),
            }
        })
    }

    fn checks(&self) -> BoxFuture<'_, Vec<Check>> {
        Box::pin(doctor::checks(&self.config.socket, &self.config.criu, &self.config.state))
    }
}
