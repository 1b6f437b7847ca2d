// The log's topics, and one topic's records as they come.

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { topics, type LogRecord, type Topic } from "./api";
import * as f from "./format";
import { alter, route } from "./router";
import { now } from "./state";
import { text } from "./strings";

const t = text.topics;
const REFRESH = 2000;
const REOPEN = 5000;
const KEPT = 200; // records of a tail
const list = signal<(Topic & { rate: number | null })[] | null>(null);
const failed = signal("");

async function refresh(before: Map<string, { records: number; at: number }>): Promise<void> {
  if (document.hidden && list.value) return;
  try {
    const all: Topic[] = [];
    let cursor = "";
    do {
      const page = await topics(cursor);
      all.push(...page.topics);
      cursor = page.next;
    } while (cursor && all.length < 10_000);
    const at = performance.now();
    list.value = all.map((topic) => {
      const was = before.get(topic.name);
      const rate = was && at > was.at ? Math.max(0, ((topic.records - was.records) * 1000) / (at - was.at)) : null;
      return { ...topic, rate };
    });
    before.clear();
    for (const topic of all) before.set(topic.name, { records: topic.records, at });
    failed.value = "";
  } catch (e) {
    failed.value = f.named(e instanceof Error ? e.message : String(e), 200);
  }
}

export function TopicList() {
  useEffect(() => {
    const before = new Map<string, { records: number; at: number }>();
    void refresh(before);
    const every = setInterval(() => void refresh(before), REFRESH);
    return () => clearInterval(every);
  }, []);
  const chosen = route.value.query.get("topic") ?? "";
  return (
    <section class="page topics">
      <header><h1>{t.title}</h1><p class="dim">{t.lead}</p></header>
      {failed.value && <p class="bad" role="alert">{failed.value}</p>}
      {list.value === null ? <p class="dim">{text.loading}</p> : list.value.length === 0 ? <p class="dim">{t.empty}</p> : (
        <div class="wide">
          <table class="data">
            <thead>
              <tr><th scope="col">{t.name}</th><th scope="col" class="num">{t.partitions}</th><th scope="col" class="num">{t.records}</th><th scope="col" class="num">{t.rate}</th>
                <th scope="col" class="num">{t.bytes}</th><th scope="col" class="num">{t.first}</th><th scope="col" class="num">{t.last}</th></tr>
            </thead>
            <tbody>
              {list.value.map((topic) => (
                <tr key={topic.name} class={topic.name === chosen ? "active" : ""}>
                  <th scope="row"><button class="plain" aria-expanded={topic.name === chosen} onClick={() => alter({ topic: topic.name === chosen ? null : topic.name }, true)}>{f.named(topic.name, 120)}</button></th>
                  <td class="num">{topic.partitions}</td><td class="num">{f.count(topic.records)}</td><td class="num">{topic.rate === null ? text.none : f.rate(topic.rate)}</td>
                  <td class="num">{f.bytes(topic.bytes)}</td><td class="num">{topic.first === null ? text.none : f.ago(topic.first, now.value)}</td>
                  <td class="num">{topic.last === null ? text.none : f.ago(topic.last, now.value)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </div>
      )}
      {chosen && <Tail key={chosen} topic={chosen} />}
    </section>
  );
}

const records = signal<LogRecord[]>([]);
const skipped = signal(0);
const paused = signal(false);
const broken = signal<"" | "again" | "closed">("");
const round = signal(0); // counts the attempts to open a tail that was refused

function Tail({ topic }: { topic: string }) {
  useEffect(() => {
    records.value = [];
    skipped.value = 0;
    broken.value = "";
  }, [topic]);
  useEffect(() => {
    if (paused.value) return;
    const source = new EventSource("/api/v1/topics/" + encodeURIComponent(topic) + "/tail");
    // Records are shown four times a second, however fast they come.
    let fresh: LogRecord[] = [];
    const show = setInterval(() => {
      if (fresh.length === 0) return;
      records.value = fresh.reverse().concat(records.value).slice(0, KEPT);
      fresh = [];
    }, 250);
    const heard = (e: MessageEvent<string>) => {
      broken.value = "";
      const m = JSON.parse(e.data) as LogRecord | { skipped: number };
      if ("skipped" in m) skipped.value += m.skipped;
      else if (fresh.push(m) > KEPT) fresh.shift();
    };
    source.onmessage = heard;
    source.addEventListener("skipped", heard as EventListener);
    let again = 0;
    source.onerror = () => {
      broken.value = source.readyState === EventSource.CLOSED ? "closed" : "again";
      if (broken.value === "closed") again = setTimeout(() => round.value++, REOPEN) as unknown as number;
    };
    return () => {
      clearTimeout(again);
      clearInterval(show);
      source.close();
    };
  }, [topic, paused.value, round.value]);
  return (
    <div class="tail">
      <header>
        <h2>{f.named(topic, 120)} <span class="dim">{t.tail}</span></h2>
        <button aria-pressed={paused.value} onClick={() => (paused.value = !paused.value)}>{paused.value ? t.resume : t.pause}</button>
      </header>
      {broken.value && <p class="dim">{broken.value === "again" ? t.ended : t.refused}</p>}
      {skipped.value > 0 && <p class="dim">{t.skipped(f.count(skipped.value))}</p>}
      {records.value.length === 0 && !paused.value && !broken.value && <p class="dim">{t.waiting}</p>}
      {records.value.length > 0 && <ol>
        {records.value.map((r) => (
          <li key={r.partition + ":" + r.offset}>
            <span class="dim">{f.clock(r.time)} {r.partition}:{r.offset}</span> <b>{f.named(r.key, 64)}</b> <code>{f.named(r.value ?? r.base64 ?? "", 400)}</code>
          </li>
        ))}
      </ol>}
    </div>
  );
}
