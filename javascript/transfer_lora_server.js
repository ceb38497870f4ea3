// Finds out whether the WebUI answers, and whether it is still the start of it that made this page.
(function() {
    "use strict";

    const {part, read, calls, actions} = window.transferLora;

    const AGAIN_MS = 2000;
    const PATIENCE_MS = 4000;

    // state is "" while it answers, "silent" while it does not, and "restarted" for good once another start of it answers.
    const server = {state: "", asking: false};
    let asked = 0;

    // Every start has a token of its own, which stands in each page that it makes. Nothing else is asked of a server that may
    // be another one: its events may have other numbers.
    async function stateNow() {
        const patience = new AbortController();
        const timer = setTimeout(() => patience.abort(), PATIENCE_MS);
        try {
            const answer = await fetch(location.pathname, {cache: "no-store", signal: patience.signal});
            // A proxy answers for a server that does not.
            if (answer.status >= 500) return "silent";
            return (await answer.text()).includes(read("token")) ? "" : "restarted";
        } catch {
            return "silent";
        } finally {
            clearTimeout(timer);
        }
    }

    // Called when an answer is overdue.
    server.wonder = async function() {
        if (server.asking || server.state === "restarted" || Date.now() - asked < AGAIN_MS) return;
        server.asking = true;
        asked = Date.now();
        server.state = await stateNow();
        server.asking = false;
        asked = Date.now();
        const root = part("root");
        if (server.state) root.dataset.server = server.state;
        else delete root.dataset.server;
    };

    calls.always.push(() => server.state === "silent" && server.wonder());
    actions.reload = () => location.reload();
    window.transferLora.server = server;
})();
