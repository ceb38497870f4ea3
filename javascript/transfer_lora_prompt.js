// What the tab has to do with the prompt: tags are copied or sent there, and a comparison takes the settings of txt2img.
(function() {
    "use strict";

    const {app, part, press, write, openTab, actions, calls} = window.transferLora;

    async function copy(text) {
        try {
            return await navigator.clipboard.writeText(text);
        } catch {
            // The page may not use the clipboard, or it did not come over a secure connection.
        }
        const field = document.createElement("textarea");
        field.value = text;
        document.body.appendChild(field);
        field.select();
        document.execCommand("copy");
        field.remove();
    }

    function send(where, tag) {
        const prompt = app().querySelector("#" + where + "_prompt textarea");
        if (!prompt) return;
        prompt.value = (prompt.value.trimEnd() + " " + tag).trim();
        prompt.dispatchEvent(new Event("input", {bubbles: true}));
        openTab(where);
    }

    // The values of txt2img, for a comparison; the server checks each of them.
    function txt2img() {
        const value = (inner) => app().querySelector("#txt2img_" + inner)?.value;
        const taken = {
            prompt: value("prompt textarea"),
            negative: value("neg_prompt textarea"),
            sampler: value("sampling input"),
        };
        for (const name of ["steps", "width", "height"]) taken[name] = value(name + " input[type=number]");
        taken.cfg = value("cfg_scale input[type=number]");
        taken.seed = value("seed :is(input, textarea)");
        return taken;
    }

    // Hands them to the server, and presses a button of ours.
    function take(button) {
        write("taken", JSON.stringify(txt2img()));
        setTimeout(() => press(button), 100);
    }

    actions.copy = (button) => copy(button.dataset.tag).then(() => {
        button.textContent = "Copied";
    });
    for (const where of ["txt2img", "img2img"]) actions[where] = (button) => send(where, button.dataset.tag);
    actions.take = () => take("take");
    actions.compare = (button) => {
        write("compared", button.dataset.name);
        take("compare_now");
        part("status").scrollIntoView({block: "nearest"});
    };

    // The buttons that send a tag need a prompt on the page.
    calls.opened.push(function() {
        if (app().querySelector("#txt2img_prompt")) part("root").dataset.prompt = "yes";
    });
})();
