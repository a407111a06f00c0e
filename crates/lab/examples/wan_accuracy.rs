//! Measures how exact the WAN emulator is: `cargo run --release -p pangea-lab --example wan_accuracy`.
#![expect(clippy::print_stdout, reason = "a measuring program prints what it measures")]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pangea_lab::wan::{Distance, Table, Wan};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let (here, there) = ("a".parse()?, "b".parse()?);
    for (round_trip_ms, rounds) in [(0, 200), (1, 200), (10, 200), (40, 100), (100, 40)] {
        let round_trip = Duration::from_millis(round_trip_ms);
        let distance = Distance { round_trip, jitter: Duration::ZERO, bandwidth: None };
        let targets = BTreeMap::from([("a".parse()?, address), ("b".parse()?, address)]);
        let wan = Wan::start(&Table::uniform(distance), &targets).await?;
        let mut stream = TcpStream::connect(wan.link(&here, &there)?.address()).await?;
        stream.set_nodelay(true)?;
        let mut byte = [0];
        let mut times = Vec::new();
        for _ in 0..rounds {
            let start = Instant::now();
            stream.write_all(b"x").await?;
            stream.read_exact(&mut byte).await?;
            times.push(start.elapsed().as_secs_f64() * 1000.0);
        }
        // The first pays the handshake.
        times.remove(0);
        times.sort_by(f64::total_cmp);
        let at = |percent: usize| times.get(times.len() * percent / 100).copied().unwrap_or(f64::NAN);
        let (p50, p90, p99) = (at(50), at(90), at(99));
        println!("set {round_trip_ms:>3} ms   p50 {p50:>7.3} ms   p90 {p90:>7.3} ms   p99 {p99:>7.3} ms");
    }
    Ok(())
}
