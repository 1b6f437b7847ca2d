// The live channel (docs/live.md): one WebSocket, opened again with growing pauses whenever it ends or falls silent. It keeps the
// protocol whether or not anything is drawn; frames go into the fleet, texts into the state.

import { Refused, status, type DeviceDetail, type Hello, type Pipeline } from "./api";
import type { Fleet } from "./fleet";
import { apply, FrameError, header, type Header } from "./frame";

export interface View { bbox: [number, number, number, number]; zoom: number }

export interface Listener {
  state(s: "connecting" | "live" | "waiting", retryAt: number, why: string): void;
  hello(h: Hello): void;
  pipeline(p: Pipeline): void;
  device(d: DeviceDetail): void;
  frame(h: Header): void;
  login(): void;
}

const FIRST_PAUSE = 500;
const LONGEST_PAUSE = 15_000;
const CLOCK_ROUNDS = 5; // at once, then one every CLOCK_PAUSE
const CLOCK_PAUSE = 30_000;
const KEY_PAUSE = 1_000;
const LONGEST_NAME = 1024; // bytes; the node refuses more

/** ms since 1970, finer than Date.now and never stepping while the page lives. */
export const wall = (): number => performance.timeOrigin + performance.now();

export class Live {
  lastSeq = -1;
  /** Frames that never came, by the holes in seq; frames that could not be read. */
  dropped = 0;
  broken = 0;
  connects = 0;
  bytes = 0;
  /** Node clock minus this page's, ms, from the quickest round; null until there was one. */
  offset: number | null = null;

  private socket: WebSocket | null = null;
  private view: View | null = null;
  private watched = "";
  private pause = FIRST_PAUSE;
  private retry = 0;
  private clock = 0;
  private watchdog = 0;
  private lastHeard = 0;
  private tick = 1000;
  private quickest = Infinity;
  private lastSeen = 0;
  private lastKey = 0;
  private whole = false; // nothing is missing in the fleet
  private ended = "";

  constructor(
    private readonly fleet: Fleet,
    private readonly to: Listener,
  ) {
    // A laptop that wakes, or a network that is back, need not wait for the pause to pass.
    addEventListener("online", () => this.hurry());
    // A page that the browser keeps for going back to does not look on.
    addEventListener("pagehide", () => this.close());
    addEventListener("pageshow", (e) => {
      if (e.persisted) this.open();
    });
    document.addEventListener("visibilitychange", () => {
      if (!document.hidden) this.hurry();
    });
  }

  open(): void {
    clearTimeout(this.retry);
    this.retry = 0;
    if (this.socket) return;
    this.to.state("connecting", 0, "");
    const at = new URL("/api/v1/live", location.href);
    at.protocol = at.protocol.replace("http", "ws");
    const s = new WebSocket(at, "millrace.live.v1");
    s.binaryType = "arraybuffer";
    this.socket = s;
    this.lastHeard = performance.now();
    this.ended = "";
    s.onopen = () => this.opened();
    s.onmessage = (m) => this.heard(m.data as string | ArrayBuffer);
    s.onclose = () => this.closed(s);
    clearInterval(this.watchdog);
    this.watchdog = setInterval(() => this.guard(), 1000) as unknown as number;
  }

  /** Closes the channel for good, until open is called. */
  close(): void {
    const s = this.socket;
    this.socket = null;
    clearTimeout(this.retry);
    clearInterval(this.clock);
    clearInterval(this.watchdog);
    s?.close();
  }

  /** What the map shows; the node sends what is in there. */
  look(v: View): void {
    this.view = v;
    this.send({ type: "view", bbox: v.bbox, zoom: v.zoom });
  }

  /** Has the node tell of that device at every tick; "" ends it. */
  follow(device: string): void {
    if (new TextEncoder().encode(device).length > LONGEST_NAME) device = ""; // no device is named so
    if (device === this.watched) return;
    this.watched = device;
    this.send({ type: "watch", device });
  }

  /** A frame has been drawn. */
  drawn(seq: number): void {
    const now = performance.now();
    if (now - this.lastSeen < 1000) return;
    this.lastSeen = now;
    this.send({ type: "seen", seq, at: wall() });
  }

  /** Ends the connection as a network does: for tests. */
  cut(): void {
    this.socket?.close();
  }

  private send(m: object): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(m));
  }

  private opened(): void {
    this.connects++;
    this.lastSeq = -1;
    this.whole = false;
    this.quickest = Infinity;
    if (this.view) this.look(this.view);
    if (this.watched) this.send({ type: "watch", device: this.watched });
    let rounds = 0;
    const round = () => this.send({ type: "clock", t0: wall() });
    clearInterval(this.clock);
    this.clock = setInterval(() => {
      round();
      if (++rounds === CLOCK_ROUNDS) {
        clearInterval(this.clock);
        this.clock = setInterval(round, CLOCK_PAUSE) as unknown as number;
      }
    }, 200) as unknown as number;
  }

  private heard(data: string | ArrayBuffer): void {
    this.lastHeard = performance.now();
    if (typeof data === "string") {
      this.bytes += data.length;
      this.text(JSON.parse(data) as { type: string });
    } else {
      this.bytes += data.byteLength;
      this.frame(data);
    }
  }

  private text(m: { type: string }): void {
    switch (m.type) {
      case "hello":
        this.pause = FIRST_PAUSE;
        this.tick = Math.max(100, (m as unknown as Hello).tick || 1000);
        this.to.state("live", 0, "");
        return this.to.hello(m as unknown as Hello);
      case "pipeline":
        return this.to.pipeline(m as unknown as Pipeline);
      case "device":
        return this.to.device(m as unknown as DeviceDetail);
      case "clock":
        return this.clocked(m as unknown as { t0: number; t1: number });
      case "bye":
        this.ended = String((m as unknown as { reason: unknown }).reason).slice(0, 200);
    }
  }

  private clocked(m: { t0: number; t1: number }): void {
    const now = wall();
    const round = now - m.t0;
    if (round < 0 || round > this.quickest * 1.5) return;
    this.quickest = Math.min(this.quickest, round);
    this.offset = m.t1 - (m.t0 + round / 2);
    this.send({ type: "offset", ms: this.offset });
  }

  private frame(data: ArrayBuffer): void {
    let h: Header;
    try {
      h = header(data);
      const expected = (this.lastSeq + 1) >>> 0;
      if (this.lastSeq >= 0 && h.seq !== expected) {
        this.dropped += (h.seq - expected) >>> 0;
        this.whole = false;
      }
      this.lastSeq = h.seq;
      if (h.anew) this.whole = true;
      const orphans = this.fleet.orphans;
      h = apply(data, this.fleet, performance.now());
      if (this.fleet.orphans !== orphans) this.whole = false;
    } catch (e) {
      if (!(e instanceof FrameError)) throw e;
      this.broken++;
      this.whole = false;
      return this.key();
    }
    if (!this.whole) this.key();
    this.to.frame(h);
  }

  /** Asks for all rows, not more than once a second. */
  private key(): void {
    const now = performance.now();
    if (now - this.lastKey < KEY_PAUSE) return;
    this.lastKey = now;
    this.send({ type: "key" });
  }

  /** A channel that says nothing for three ticks is dead, whatever TCP thinks. */
  private guard(): void {
    if (this.socket && performance.now() - this.lastHeard > Math.max(5000, 3 * this.tick)) {
      const s = this.socket;
      s.onclose = null;
      s.onmessage = null;
      s.close();
      this.ended = "silent";
      this.closed(s);
    }
  }

  private closed(s: WebSocket): void {
    if (this.socket !== s) return;
    this.socket = null;
    clearInterval(this.clock);
    clearInterval(this.watchdog);
    const wait = this.pause * (0.75 + Math.random() / 2);
    this.pause = Math.min(LONGEST_PAUSE, this.pause * 2);
    this.to.state("waiting", Date.now() + wait, this.ended);
    this.retry = setTimeout(() => this.again(), wait) as unknown as number;
  }

  private hurry(): void {
    if (this.retry) void this.again();
  }

  /** A browser does not tell why a WebSocket was refused; the status does. */
  private async again(): Promise<void> {
    clearTimeout(this.retry);
    this.retry = 0;
    try {
      await status();
    } catch (e) {
      if (e instanceof Refused && e.status === 401) {
        if (!e.login) this.to.state("waiting", 0, e.message);
        return this.to.login();
      }
    }
    this.open();
  }
}
