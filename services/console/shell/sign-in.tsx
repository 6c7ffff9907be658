import { useEffect, useRef, useState } from "preact/hooks";
import { ApiError, signIn } from "../api.ts";

export function SignIn({ onSignedIn }: { onSignedIn: () => void }) {
  const [failure, setFailure] = useState<string | null>(null);
  const [busy, setBusy] = useState(false);
  const field = useRef<HTMLInputElement>(null);
  useEffect(() => field.current?.focus(), []);
  const submit = async (event: Event) => {
    event.preventDefault();
    setBusy(true);
    try {
      await signIn(field.current?.value ?? "");
      onSignedIn();
    } catch (error) {
      setFailure(error instanceof ApiError ? error.message : "That did not work.");
      field.current?.focus();
    } finally {
      setBusy(false);
    }
  };
  return (
    <main class="sign-in">
      <form class="card" onSubmit={submit}>
        <div class="brand">
          <img src="./icon.svg" alt="" width="28" height="28" />
          <h1>Pelagic</h1>
        </div>
        <label for="console-key">The console's key</label>
        <input
          ref={field}
          id="console-key"
          type="password"
          autocomplete="current-password"
          required
          aria-describedby={failure === null ? undefined : "sign-in-failure"}
          aria-invalid={failure !== null}
        />
        {failure !== null && (
          <p class="failure" id="sign-in-failure" role="alert">
            {failure}
          </p>
        )}
        <button type="submit" class="primary" disabled={busy}>
          Look
        </button>
      </form>
    </main>
  );
}
