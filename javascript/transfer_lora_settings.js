// Opens the WebUI's settings where one of ours stands.
(function() {
    "use strict";

    const {app, part, calls, actions} = window.transferLora;

    const control = (key) => app().querySelector("#setting_transfer_lora_" + key);

    // Brings the pages of tabs that an element lies in to the front, the outermost first.
    function openPagesOf(element) {
        const pages = [];
        for (let at = element; at; at = at.parentElement) {
            if (at.parentElement?.querySelector(":scope > .tab-nav")) pages.unshift(at);
        }
        for (const page of pages) {
            const all = Array.from(page.parentElement.children).filter((child) => child.classList.contains("tabitem"));
            page.parentElement.querySelectorAll(":scope > .tab-nav > button")[all.indexOf(page)]?.click();
        }
    }

    actions.setting = function(button) {
        const setting = control(button.dataset.setting);
        openPagesOf(setting);
        setTimeout(function() {
            setting.scrollIntoView({block: "center"});
            setting.querySelector("input, textarea")?.focus();
        }, 100);
    };
    // Where the page has no settings, there is no such button.
    calls.opened.push(function() {
        if (control("cache_size")) part("root").dataset.settings = "yes";
    });
})();
