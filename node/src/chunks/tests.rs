//! Transfers between two real endpoints over loopback.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures::{SinkExt, StreamExt};
use godwit_protocol::manifest::{CHUNK, Manifest};
use godwit_protocol::{Hash, OfferId, SiteId, decode, encode};
use tokio_util::codec::Framed;

use super::wire::{ANSWER_MAX, Answer, Place, Request};
use super::*;
use crate::net::testing::{QUIC, Site, TCP, pair, site, soon};
use crate::net::{Protocol, Refusal, framing, greet};

const KEY: PartKey = PartKey { offer: OfferId([1; 32]), part: Part::Checkpoint };

/// Bytes without repetition, so that every chunk is distinct.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

/// A folder of some files; 41 distinct chunks.
fn fill(dir: &Path) {
    std::fs::create_dir_all(dir.join("deep/er")).unwrap();
    std::fs::write(dir.join("pages-1.img"), noise(1, CHUNK as usize * 40 - 17)).unwrap();
    std::fs::write(dir.join("deep/er/core.img"), noise(2, 5000)).unwrap();
    std::fs::write(dir.join("empty"), b"").unwrap();
}

fn same(a: &Path, b: &Path) -> bool {
    ["pages-1.img", "deep/er/core.img", "empty"]
        .iter()
        .all(|name| std::fs::read(a.join(name)).unwrap() == std::fs::read(b.join(name)).unwrap())
}

struct Scene {
    source: Site,
    target: Site,
    server: Server,
    dir: tempfile::TempDir,
    manifest: Manifest,
}

impl Scene {
    async fn set(listen: &str) -> Self {
        let (source, target) = pair(listen).await;
        let dir = tempfile::tempdir().unwrap();
        fill(&dir.path().join("from"));
        let manifest = manifest_of(&dir.path().join("from")).await.unwrap();
        let server = Server::start(&source.net);
        server.publish(KEY, &dir.path().join("from"), manifest.clone(), target.net.site()).unwrap();
        Self { source, target, server, dir, manifest }
    }

    fn pull(&self) -> Pull {
        Pull::new(&self.target.net, self.source.net.site(), KEY, &self.dir.path().join("into"))
    }

    fn arrived(&self) -> bool {
        same(&self.dir.path().join("from"), &self.dir.path().join("into"))
    }
}

async fn a_folder_travels(listen: &str) {
    let scene = Scene::set(listen).await;
    let seen = Mutex::new(Vec::new());
    let root = scene.manifest.root().unwrap();
    let pull = scene.pull().expect_root(root).run(|progress| seen.lock().unwrap().push(progress));
    let pulled = soon(pull).await.unwrap();
    assert!(scene.arrived());
    assert_eq!((pulled.root, pulled.manifest.clone()), (root, scene.manifest.clone()));
    assert_eq!(pulled.transferred, scene.manifest.bytes().0);
    assert_eq!(pulled.reconnections, 0);
    let seen = seen.into_inner().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0].done <= pair[1].done));
    assert_eq!(seen.last().unwrap().done, scene.manifest.bytes().0);

    let again = soon(scene.pull().run(|_| ())).await.unwrap();
    assert_eq!(again.transferred, 0);
    assert!(scene.arrived());
}

#[tokio::test]
async fn a_folder_travels_over_tcp() {
    a_folder_travels(TCP).await;
}

#[tokio::test]
async fn a_folder_travels_over_quic() {
    a_folder_travels(QUIC).await;
}

#[tokio::test]
async fn a_pull_goes_on_where_a_broken_connection_left_it() {
    let scene = Scene::set(TCP).await;
    let cuts = AtomicU32::new(0);
    let (source, target) = (&scene.source, &scene.target);
    let pull = scene.pull().run(|progress| {
        // Half way the source throws the target out, and lets it in again.
        if progress.done > progress.total / 2 && cuts.fetch_add(1, Ordering::Relaxed) == 0 {
            source.net.admit([source.as_member()].into());
        }
    });
    let readmit = async {
        while target.net.is_connected(&source.net.site()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        source.net.admit([source.as_member(), target.as_member()].into());
        std::future::pending::<()>().await;
    };
    let pulled = tokio::select! {
        pulled = soon(pull) => pulled.unwrap(),
        () = readmit => unreachable!(),
    };
    assert!(pulled.reconnections > 0);
    assert!(scene.arrived());
    // What had been written did not travel again: less than a window did.
    let total = scene.manifest.bytes().0;
    assert!((total..total * 2).contains(&pulled.transferred), "{} of {total}", pulled.transferred);
}

#[tokio::test]
async fn a_pull_after_a_restart_fetches_only_what_is_missing_or_wrong() {
    let scene = Scene::set(QUIC).await;
    let stage = scene.dir.path().join("into.part");
    fill(&stage);
    // One chunk of the large file is damaged, and the small one is cut short.
    let mut pages = std::fs::read(stage.join("pages-1.img")).unwrap();
    pages[CHUNK as usize * 3 + 1] ^= 1;
    std::fs::write(stage.join("pages-1.img"), &pages).unwrap();
    std::fs::write(stage.join("deep/er/core.img"), b"short").unwrap();
    let pulled = soon(scene.pull().run(|_| ())).await.unwrap();
    assert_eq!(pulled.transferred, u64::from(CHUNK) + 5000);
    assert!(scene.arrived());
}

#[tokio::test]
async fn a_part_is_served_to_its_site_only_and_while_it_is_offered() {
    let mut scene = Scene::set(TCP).await;
    let impatient = scene.pull().publication(Duration::ZERO);
    let other: SiteId = site(9);
    let from = scene.dir.path().join("from");
    scene.server.publish(KEY, &from, scene.manifest.clone(), other).unwrap();
    let refused = soon(impatient.clone().run(|_| ())).await.unwrap_err();
    assert!(matches!(refused, PullError::Refused { source: Refused::NotOffered, .. }), "{refused}");
    assert_eq!(scene.source.refused().await, (Some(scene.target.net.site()), Refusal::NotOffered));

    scene.server.publish(KEY, &from, scene.manifest.clone(), scene.target.net.site()).unwrap();
    soon(impatient.clone().run(|_| ())).await.unwrap();
    scene.server.withdraw(&KEY);
    let refused = soon(impatient.run(|_| ())).await.unwrap_err();
    assert!(matches!(refused, PullError::Refused { source: Refused::NotOffered, .. }), "{refused}");
}

#[tokio::test]
async fn another_manifest_than_agreed_on_is_refused() {
    let scene = Scene::set(TCP).await;
    let refused = soon(scene.pull().expect_root(Hash([9; 32])).run(|_| ())).await.unwrap_err();
    assert!(matches!(refused, PullError::WrongRoot { .. }), "{refused}");
    assert!(!scene.dir.path().join("into").exists());
    assert_eq!(scene.target.net.metrics().refused(Refusal::BadManifest), 1);
}

/// A source that answers as it is told: given a request, the frame to send, or `None` to hang up.
async fn forged(source: &Site, answer: impl Fn(Request) -> Option<Answer> + Clone + Send + Sync + 'static) {
    source.net.serve(Protocol::Pull, move |_, mut stream| {
        let answer = answer.clone();
        async move {
            greet(&mut stream).await.unwrap();
            let mut frames = Framed::new(stream, framing(ANSWER_MAX));
            while let Some(Ok(frame)) = frames.next().await {
                let Some(answer) = answer(decode(&frame).unwrap()) else { return };
                if frames.send(answer.encode()).await.is_err() {
                    return;
                }
            }
        }
    });
}

/// A source whose chunk of one place is wrong as often as said.
async fn corrupting(times: u32) -> (Site, tempfile::TempDir, Result<Pulled, PullError>, u64) {
    let (source, target) = pair(TCP).await;
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("from"));
    let manifest = manifest_of(&dir.path().join("from")).await.unwrap();
    let encoded = encode(&manifest).unwrap();
    let (root, left) = (dir.path().join("from"), std::sync::Arc::new(AtomicU32::new(times)));
    forged(&source, move |request| {
        let Request::Chunk(place) = request else { return Some(Answer::Manifest(encoded.clone().into())) };
        let file = &manifest.files[place.file as usize];
        let bytes = std::fs::read(root.join(file.path.as_str())).unwrap();
        let mut bytes = bytes.chunks(CHUNK as usize).nth(place.chunk as usize).unwrap().to_vec();
        let spoil = file.path.as_str() == "pages-1.img" && place.chunk == 7;
        if spoil && left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
            bytes[0] ^= 1;
        }
        Some(Answer::Chunk(place, bytes.into()))
    })
    .await;
    let pulled = soon(Pull::new(&target.net, site(1), KEY, &dir.path().join("into")).run(|_| ())).await;
    (source, dir, pulled, target.net.metrics().refused(Refusal::CorruptChunk))
}

#[tokio::test]
async fn a_corrupt_chunk_is_fetched_again() {
    let (_source, dir, pulled, corrupt) = corrupting(1).await;
    pulled.unwrap();
    assert!(same(&dir.path().join("from"), &dir.path().join("into")));
    assert_eq!(corrupt, 1);
}

#[tokio::test]
async fn a_source_that_corrupts_a_chunk_twice_is_named_and_nothing_wrong_is_kept() {
    let (_source, dir, pulled, corrupt) = corrupting(2).await;
    let refused = pulled.unwrap_err();
    let named =
        matches!(&refused, PullError::Corrupt { from, file, chunk: 7 } if *from == site(1) && file == "pages-1.img");
    assert!(named, "{refused}");
    assert_eq!(corrupt, 2);
    assert!(!dir.path().join("into").exists());
    let kept = std::fs::read(dir.path().join("into.part/pages-1.img")).unwrap();
    assert!(kept[CHUNK as usize * 7..CHUNK as usize * 8].iter().all(|byte| *byte == 0));
}

#[tokio::test]
async fn a_manifest_that_leaves_the_folder_is_refused() {
    let (source, target) = pair(TCP).await;
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("from"));
    let mut files = manifest_of(&dir.path().join("from")).await.unwrap().files.into_inner();
    files[0].path = godwit_protocol::bounded::Text::new("../escaped").unwrap();
    let bad = encode(&Manifest { files: godwit_protocol::bounded::List::new(files).unwrap() }).unwrap();
    forged(&source, move |_| Some(Answer::Manifest(bad.clone().into()))).await;
    let refused = soon(Pull::new(&target.net, site(1), KEY, &dir.path().join("into")).run(|_| ())).await.unwrap_err();
    assert!(matches!(refused, PullError::BadManifest { .. }), "{refused}");
    assert!(!dir.path().join("escaped").exists() && !dir.path().join("into.part").exists());
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_ends_the_pull() {
    let (source, target) = pair(TCP).await;
    let dir = tempfile::tempdir().unwrap();
    fill(&dir.path().join("from"));
    let manifest = encode(&manifest_of(&dir.path().join("from")).await.unwrap()).unwrap();
    forged(&source, move |request| match request {
        Request::Open(_) => Some(Answer::Manifest(manifest.clone().into())),
        Request::Chunk(_) => Some(Answer::Chunk(Place { file: 9, chunk: 9 }, vec![0; CHUNK as usize].into())),
    })
    .await;
    let refused = soon(Pull::new(&target.net, site(1), KEY, &dir.path().join("into")).run(|_| ())).await.unwrap_err();
    assert!(matches!(refused, PullError::Misbehaved { .. }), "{refused}");
}

#[tokio::test]
async fn a_pull_waits_for_a_part_that_is_published_late() {
    let scene = Scene::set(TCP).await;
    scene.server.withdraw(&KEY);
    let pull = soon(scene.pull().run(|_| ()));
    let publish = async {
        while scene.source.net.metrics().refused(Refusal::NotOffered) == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let from = scene.dir.path().join("from");
        scene.server.publish(KEY, &from, scene.manifest.clone(), scene.target.net.site()).unwrap();
    };
    let (pulled, ()) = tokio::join!(pull, publish);
    pulled.unwrap();
    assert!(scene.arrived());
}

/// Not a test of speed: prints what a transfer of 256 MB costs on this machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, to be run by hand with --no-capture"]
async fn measure_a_transfer() {
    for listen in [TCP, QUIC] {
        let (source, target) = pair(listen).await;
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir(&from).unwrap();
        std::fs::write(from.join("pages-1.img"), noise(1, 256 * 1024 * 1024)).unwrap();
        let start = std::time::Instant::now();
        let manifest = manifest_of(&from).await.unwrap();
        let hashed = start.elapsed();
        Server::start(&source.net).publish(KEY, &from, manifest, target.net.site()).unwrap();
        let start = std::time::Instant::now();
        Pull::new(&target.net, site(1), KEY, &dir.path().join("into")).run(|_| ()).await.unwrap();
        println!("{listen}: hashed in {hashed:?}, pulled in {:?}", start.elapsed());
    }
}
