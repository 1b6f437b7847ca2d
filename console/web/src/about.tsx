// Where the node's doors are, and what to type to go through them.

import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import { logout } from "./api";
import * as f from "./format";
import { attribution } from "./mapstate";
import { api, licences } from "./paths";
import { hello, needsLogin, now, refreshStatus, status } from "./state";
import { text } from "./strings";

const t = text.about;
const copied = signal("");

function Line({ line }: { line: string }) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(line);
      copied.value = line;
      setTimeout(() => (copied.value = ""), 1500);
    } catch {
      // Not allowed here: the line can still be selected.
    }
  };
  return <div class="line"><code>{line}</code><button onClick={() => void copy()}>{copied.value === line ? text.copied : text.copy}</button></div>;
}

export function About() {
  useEffect(() => void refreshStatus(), []);
  const s = status.value;
  const credits = new Set([...(hello.value?.sources ?? []).map((x) => x.attribution ?? ""), attribution.value].filter(Boolean));
  return (
    <section class="page about">
      <header><h1>{t.title}</h1></header>
      {!s && <p class="dim">{text.loading}</p>}
      {s && (
        <>
          <h2>{t.doors}</h2>
          {s.doors.map((d) => (
            <div class="door" key={d.protocol + d.address + d.try}>
              <p><b>{f.named(d.protocol, 20)}</b> <span class="dim">{f.named(d.address, 100)}</span> {f.named(d.does, 200)}</p>
              {d.try && <Line line={d.try} />}
            </div>
          ))}
          <h2>{t.checks}</h2>
          <table class="data facts">
            <tbody>
              <tr><th scope="row">{t.version}</th><td>{f.named(s.version, 80)}</td></tr>
              <tr><th scope="row">{t.started}</th><td>{f.date(s.started)} <span class="dim">{f.duration(now.value - s.started)}</span></td></tr>
              {s.checks.map((c) => <tr key={c.name}><th scope="row">{f.named(c.name, 40)}</th><td><span class={c.ok ? "good" : "bad"}>{c.ok ? t.ready : t.notReady}</span> <span class="dim">{f.named(c.detail, 200)}</span></td></tr>)}
            </tbody>
          </table>
          {s.login && s.user && (
            <p>{f.named(s.user, 60)} <button onClick={() => void logout().catch(() => {}).then(() => (needsLogin.value = true))}>{text.login.out}</button></p>
          )}
        </>
      )}
      <h2>{t.links}</h2>
      <p class="links"><a href={api.openapi}>openapi.json</a> <a href={api.pipeline}>pipeline</a> <a href={api.metrics}>metrics</a></p>
      <h2>{t.made}</h2>
      <ul class="dim">
        {[...credits].map((c) => <li key={c}>{f.named(c, 120)}</li>)}
        {t.credits.map((c) => <li key={c}>{c}</li>)}
        <li><a href={licences}>{t.licences}</a></li>
      </ul>
    </section>
  );
}
