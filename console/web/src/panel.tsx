// The selected device: what is known of it, and how well its messages add up.

import type { ComponentChildren } from "preact";
import { api } from "./paths";
import * as f from "./format";
import { following } from "./mapstate";
import { palette, sourceColour } from "./palette";
import { dark, detail, now, select, selected, sourceName, unknown } from "./state";
import { text } from "./strings";

const t = text.device;

const Row = ({ name, children }: { name: string; children: ComponentChildren }) => <div><dt>{name}</dt><dd>{children}</dd></div>;

export function Panel() {
  const id = selected.value;
  if (!id) return null;
  const d = detail.value;
  const known = d && d.id === id ? d : null;
  return (
    <aside class="panel" aria-label={t.panel}>
      <header>
        {known && <i style={{ background: sourceColour(palette(dark.value), known.source) }} aria-hidden="true" />}
        <h2 title={f.named(id, 400)}>{f.named(id, 48)}</h2>
        {known?.stale && <span class="chip bad">{t.stale}</span>}
        <button class="icon" aria-label={text.close} onClick={() => select("")}>✕</button>
      </header>
      {!known && <p class="dim">{unknown.value === id ? t.gone : text.loading}</p>}
      {known && (
        <>
          <dl>
            <Row name={t.lastSeen}>{f.clock(known.last_seen)} <span class="dim">{f.ago(known.last_seen, now.value)}</span></Row>
            <Row name={t.speed}>{f.kmh(known.speed)} <span class="dim">{f.heading(known.heading)}</span></Row>
            {known.lat !== null && known.lon !== null && <Row name={t.position}>{known.lat.toFixed(5)}, {known.lon.toFixed(5)}</Row>}
            <Row name={t.messages}>{f.count(known.messages)}</Row>
            <Row name={t.sequence}>
              {known.sequence === null ? <span class="dim">{t.noSequence}</span> : <>{f.count(known.sequence)} <Sequence missing={known.missing} repeated={known.repeated} reordered={known.reordered} /></>}
            </Row>
            <Row name={t.latency}>{f.duration(known.latency_ms)}</Row>
            <Row name={t.skew}>{known.clock_skew_ms === null ? <span class="dim">{t.exact}</span> : known.clock_skew_ms >= 0 ? t.ahead(f.duration(known.clock_skew_ms)) : t.behind(f.duration(-known.clock_skew_ms))}</Row>
            <Row name={t.source}>{sourceName(known.source)}</Row>
            <Row name={t.topic}>{f.named(known.topic, 120)}</Row>
          </dl>
          <footer>
            <button class={following.value ? "primary" : ""} aria-pressed={following.value} onClick={() => (following.value = !following.value)}>{following.value ? t.following : t.follow}</button>
            <a href={api.device(id)} target="_blank" rel="noopener">{t.raw}</a>
          </footer>
        </>
      )}
    </aside>
  );
}

function Sequence({ missing, repeated, reordered }: { missing: number; repeated: number; reordered: number }) {
  if (missing + repeated + reordered === 0) return <span class="good">{t.complete}</span>;
  return (
    <>
      {missing > 0 && <span class="chip bad">{t.missing(f.count(missing))}</span>}
      {repeated > 0 && <span class="chip">{t.repeated(f.count(repeated))}</span>}
      {reordered > 0 && <span class="chip">{t.reordered(f.count(reordered))}</span>}
    </>
  );
}
