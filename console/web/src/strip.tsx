// The pipeline strip: where every message is, from the device to this page. And the state of the connection that tells us.

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { Reason, Stage } from "./api";
import * as f from "./format";
import { connection, curves, pipeline } from "./state";
import { text } from "./strings";

const t = text.strip;
const open = signal("");
const clock = signal(0); // ticks while there is something to count down

export function Connection() {
  const c = connection.value;
  useEffect(() => {
    if (c.state !== "waiting") return;
    const every = setInterval(() => clock.value++, 500);
    return () => clearInterval(every);
  }, [c.state]);
  void clock.value;
  const left = Math.ceil((c.retryAt - Date.now()) / 1000);
  const words = c.state === "live" ? text.connection.live : c.state === "connecting" ? text.connection.connecting
    : left > 0 ? text.connection.waiting(left) : text.connection.retrying;
  return <span class={"connection " + c.state} role="status" title={c.why || undefined}><i aria-hidden="true" />{words}</span>;
}

function Curve({ ring }: { ring: number[] }) {
  if (ring.length < 2) return null;
  const top = Math.max(...ring) || 1;
  const points = ring.map((v, i) => `${((60 - ring.length + i) / 59 * 100).toFixed(1)},${(22 - (v / top) * 18).toFixed(1)}`).join(" ");
  return (
    <svg class="curve" viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">
      <polyline points={points} fill="none" stroke="currentColor" stroke-width="1.5" vector-effect="non-scaling-stroke" />
    </svg>
  );
}

function Accounted({ stage }: { stage: Stage }) {
  if (stage.unaccounted === null) return null;
  return stage.unaccounted === 0
    ? <span class="tally good">{t.ok}</span>
    : <span class="tally bad">{t.unaccounted(f.count(stage.unaccounted))}</span>;
}

function StageCell({ stage }: { stage: Stage }) {
  const on = open.value === stage.name;
  return (
    <li class={"stage" + (on ? " on" : "")}>
      <button aria-expanded={on} aria-controls="stage-detail" onClick={() => (open.value = on ? "" : stage.name)} title={t.does[stage.name]}>
        <Curve ring={curves.get(stage.name) ?? []} />
        <span class="what">{t.stages[stage.name] ?? f.named(stage.name, 20)}</span>
        <span class="rate"><b>{f.rate(stage.rate)}</b>{t.perSecond}</span>
        <span class="total">{f.short(stage.total)}</span>
        <span class="late">{stage.p50_ms === null ? "" : <><span>{t.p50} <b>{f.duration(stage.p50_ms)}</b></span>{" "}<span>{t.p99} <b>{f.duration(stage.p99_ms)}</b></span></>}</span>
        <Accounted stage={stage} />
      </button>
    </li>
  );
}

function Reasons({ title, list }: { title: string; list: Reason[] }) {
  const some = list.filter((r) => r.count !== 0);
  if (some.length === 0) return null;
  return (
    <div>
      <h3>{title}</h3>
      <table>
        <tbody>
          {some.map((r) => (
            <tr key={r.kind + r.reason}><th scope="row">{f.named(r.reason.replaceAll("_", " "), 60)}</th><td>{f.count(r.count)}</td><td class="dim">{text.kinds[r.kind] ?? f.named(r.kind)}</td></tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Detail() {
  const p = pipeline.value;
  const stage = p?.stages.find((s) => s.name === open.value);
  if (!p || !stage) return null;
  return (
    <div class="stage-detail" id="stage-detail" role="region" aria-label={t.stages[stage.name]}>
      <div class="head">
        <h2>{t.stages[stage.name]}</h2>
        <p>{t.does[stage.name]}</p>
        <button class="icon" aria-label={text.close} onClick={() => (open.value = "")}>✕</button>
      </div>
      <div class="facts">
        <table>
          <tbody>
            <tr><th scope="row">{t.total}</th><td>{f.count(stage.total)}</td></tr>
            <tr><th scope="row">{t.rate}</th><td>{f.rate(stage.rate)}</td></tr>
            {stage.p50_ms !== null && <tr><th scope="row">{t.since}</th><td>{t.p50} {f.duration(stage.p50_ms)}, {t.p99} {f.duration(stage.p99_ms)}</td></tr>}
            {stage.samples > 0 && <tr><th scope="row">{t.samples}</th><td>{f.count(stage.samples)}</td></tr>}
            {(stage.name === "devices" || stage.name === "broker") && p.clock_skew.devices > 0 && (
              <tr><th scope="row">{t.skew}</th><td>{t.skewed(f.count(p.clock_skew.devices), f.duration(p.clock_skew.p50_ms), f.duration(p.clock_skew.max_ms))}</td></tr>
            )}
            {stage.name === "browser" && <tr><th scope="row">{t.hub}</th><td>{t.hubbed(f.count(p.hub.pages), f.count(p.hub.frames), f.count(p.hub.coalesced))}</td></tr>}
          </tbody>
        </table>
        <div>
          {stage.unaccounted === null ? <p class="dim">{t.nothing}</p>
            : stage.unaccounted === 0 ? <p class="good">{t.accounted}</p>
            : <p class="bad">{t.unaccounted(f.count(stage.unaccounted))}</p>}
          <Reasons title={t.joined} list={stage.joined} />
          <Reasons title={t.left} list={stage.left} />
        </div>
      </div>
    </div>
  );
}

export function Strip() {
  const p = pipeline.value;
  const old = connection.value.state !== "live";
  useEffect(() => {
    const esc = (e: KeyboardEvent) => {
      if (e.key === "Escape" && open.value) {
        open.value = "";
        e.stopPropagation();
      }
    };
    addEventListener("keydown", esc, true);
    return () => removeEventListener("keydown", esc, true);
  }, []);
  return (
    <section class={"strip" + (old ? " old" : "")} aria-label={t.label}>
      {p ? <ol>{p.stages.map((s) => <StageCell key={s.name} stage={s} />)}</ol> : <ol class="empty"><li>{t.measuring}</li></ol>}
      {old && p && <p class="old-note">{text.connection.old}</p>}
      <Detail />
    </section>
  );
}
