// Who are you? Shown in place of everything else when the node asks.

import { signal } from "@preact/signals";
import { login } from "./api";
import { named } from "./format";
import { live, needsLogin, refreshStatus } from "./state";
import { text } from "./strings";

const failed = signal("");
const busy = signal(false);

async function submit(e: SubmitEvent): Promise<void> {
  e.preventDefault();
  const form = new FormData(e.currentTarget as HTMLFormElement);
  busy.value = true;
  failed.value = "";
  try {
    await login(String(form.get("name")), String(form.get("password")));
    needsLogin.value = false;
    live.open();
    void refreshStatus();
  } catch (err) {
    failed.value = named(err instanceof Error ? err.message : String(err), 200);
  } finally {
    busy.value = false;
  }
}

export function Login() {
  return (
    <main class="login">
      <form onSubmit={(e) => void submit(e)}>
        <h1>{text.name}</h1>
        <p class="dim">{text.login.lead}</p>
        <label>{text.login.name}<input name="name" autocomplete="username" required autofocus maxLength={100} /></label>
        <label>{text.login.password}<input name="password" type="password" autocomplete="current-password" required maxLength={1000} /></label>
        {failed.value && <p class="bad" role="alert">{text.login.failed}: {failed.value}</p>}
        <button class="primary" disabled={busy.value}>{text.login.submit}</button>
      </form>
    </main>
  );
}
