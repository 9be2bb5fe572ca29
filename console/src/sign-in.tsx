/** Sign-in: the key or token is sent once, and is nowhere in the page after that. */

import { useLayoutEffect, useRef, useState } from "preact/hooks";
import { ApiError } from "./api.ts";
import { info, signIn } from "./server-state.ts";
import { words } from "./words.ts";

export function SignIn() {
  const input = useRef<HTMLInputElement>(null);
  const [error, setError] = useState("");
  const [isSending, setSending] = useState(false);
  useLayoutEffect(() => input.current?.focus(), []);
  async function submit(event: Event) {
    event.preventDefault();
    const credential = input.current?.value.trim() ?? "";
    if (credential === "") return;
    setSending(true);
    setError("");
    try {
      await signIn(credential);
    } catch (problem) {
      setError(problem instanceof ApiError && problem.status === 401 ? words.refused : (problem as Error).message);
      setSending(false);
    }
    // The credential must not stay in the page. The field is not a state of the component for the same reason.
    if (input.current) input.current.value = "";
  }
  const kind = info.value?.auth?.kind ?? "custom";
  return (
    <main class="sign-in">
      <form onSubmit={submit}>
        <h1>{words.product}</h1>
        <p>{words.signInHelp[kind] ?? words.signInHelp.custom}</p>
        <label class="field"><span>{words.credential}</span><input ref={input} type="password" autocomplete="off" spellcheck={false} required /></label>
        {error && <p class="error" role="alert">{error}</p>}
        <div class="buttons"><button type="submit" class="primary" disabled={isSending}>{words.signIn}</button></div>
        <p class="muted">{words.signInKept}</p>
      </form>
    </main>
  );
}
