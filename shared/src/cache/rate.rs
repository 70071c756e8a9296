//! A user's rate limit over all servers, in Redis.

use redis::cmd;

use super::remote::Redis;
use crate::domain::id::UserId;

/// A token bucket that fills up in a minute. Takes one token if there is one, and returns how many there were.
const TAKE: &str = "\
local most, time = tonumber(ARGV[1]), redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
local kept = redis.call('HMGET', KEYS[1], 'room', 'at')
local room = most
if kept[1] and kept[2] then
  local passed = math.max(0, now - tonumber(kept[2]))
  room = math.min(most, tonumber(kept[1]) + passed * most / 60)
end
local left = room
if room >= 1 then left = room - 1 end
redis.call('HSET', KEYS[1], 'room', string.format('%.6f', left), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], 61000)
return string.format('%.6f', room)";

impl Redis {
    /// Takes one of a user's `per_minute` tokens of this kind if there is one, and returns how many there were. `None`
    /// if Redis does not answer in time.
    pub async fn take(&self, kind: &str, user: &UserId, per_minute: u32) -> Option<f64> {
        let mut take = cmd("EVAL");
        take.arg(TAKE).arg(1).arg(format!("longhand:v1:rate:{kind}:{user}")).arg(per_minute);
        self.call::<String>(&take).await?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::super::remote::TIMEOUT;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_redis_that_hangs_costs_one_short_timeout() {
        // It accepts connections and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let redis = Redis::new(format!("redis://{address}").parse().expect("a URL")).expect("a client");
        let user = "ana".parse().expect("a user");
        let began = Instant::now();
        assert_eq!(redis.take("submits", &user, 60).await, None);
        assert!(began.elapsed() <= TIMEOUT * 2, "{:?}", began.elapsed());
        let began = Instant::now();
        for _ in 0..100 {
            assert_eq!(redis.take("submits", &user, 60).await, None);
        }
        assert_eq!(began.elapsed(), std::time::Duration::ZERO);
    }
}
