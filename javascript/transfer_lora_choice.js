// Asks what there is to say of the choice, the target, the LoRAs and the cost, whenever it changes here or in the WebUI's own bar.
(function() {
    "use strict";

    const {app, part, press, write, calls} = window.transferLora;

    // Answers may arrive in any order, and gradio 4 drops
    // a question while the one before is under way. So questions are numbered, and the last one is asked again until the page
    // shows the answer to it.

    // The WebUIs have their list of checkpoints above the tabs, under other ids or none (Forge), beside other settings.
    const FIELDS = ["input", "textarea", "select"];
    const BAR = [
        ...FIELDS.map((field) => field + ":not(#tabs *)"),
        ...FIELDS.map((field) => "#setting_sd_model_checkpoint " + field),
        "input[aria-label*=checkpoint i]",
    ].join(", ");
    const CHOICE = ["target", "source", "advanced"];
    // The WebUI's own event and ours race on the server.
    const AGAIN_MS = [1500, 4000, 10000];
    const asking = {number: 0, at: 0, tries: 0, bar: null, choice: null};

    function ask(button = "look") {
        asking.number += 1;
        asking.tries = 0;
        write("question", String(asking.number));
        setTimeout(() => repeat(button), 100);
    }

    function repeat(button = "look") {
        // Nothing is asked of a WebUI that does not answer, and gradio would say so every time.
        if (window.transferLora.server.state) return;
        asking.at = Date.now();
        asking.tries += 1;
        press(button);
    }

    const values = (fields) => fields.map((it) => ["radio", "checkbox"].includes(it.type) ? it.checked : it.value);
    const within = (name) => Array.from(part(name)?.querySelectorAll(FIELDS.join(", ")) || []);

    function bar() {
        const fields = Array.from(app().querySelectorAll(BAR)).filter((field) => !part("root").contains(field));
        return JSON.stringify([window.opts?.sd_model_checkpoint, ...values(fields)]);
    }

    function chosen() {
        const tokens = Array.from(part("adapters")?.querySelectorAll(".token") || [], (token) => token.textContent);
        return JSON.stringify([tokens, ...values(CHOICE.flatMap(within))]);
    }

    function followChoice() {
        const now = {bar: bar(), choice: chosen()};
        const first = asking.bar === null;
        const switched = now.bar !== asking.bar;
        const changed = switched || now.choice !== asking.choice;
        Object.assign(asking, now);
        if (first) return;
        if (switched) AGAIN_MS.forEach((ms) => setTimeout(ask, ms));
        if (changed) return ask();
        const answers = ["target_line", "chosen"].map((name) => part(name)?.querySelector("[data-question]"));
        const answered = answers.every((answer) => answer?.dataset.question === String(asking.number));
        if (!answered && Date.now() - asking.at > Math.min(700 * asking.tries, 5000)) repeat();
    }

    calls.opened.push(() => ask("open"));
    calls.again.push(() => ask());
    calls.ticks.push(followChoice);
})();
