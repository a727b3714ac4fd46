// What Dash's own controls lack: radio groups and lists that a screen reader knows, whose choice goes
// into the dcc.Store named by data-store, and values that count once typing or dragging pauses.
(() => {
  const PAUSE = 250; // milliseconds
  const waiting = {};

  const buttonsOf = (store) =>
    [...document.querySelectorAll('button[role="radio"]')].filter((b) => b.dataset.store === store);
  const choose = (store, value) => window.dash_clientside.set_props(store, { data: value });

  document.addEventListener("click", (event) => {
    const button = event.target.closest('button[role="radio"]');
    if (button) choose(button.dataset.store, button.value);
  });
  document.addEventListener("change", (event) => {
    if (event.target.matches("select[data-store]")) choose(event.target.dataset.store, event.target.value);
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || !event.target.matches('button[role="radio"]')) return;
    event.preventDefault();
    const group = buttonsOf(event.target.dataset.store);
    const next = group[(group.indexOf(event.target) + step + group.length) % group.length];
    next.focus();
    choose(next.dataset.store, next.value);
  });

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    explorer: {
      mark: (value, store) => {
        for (const button of buttonsOf(store)) {
          const chosen = button.value === value;
          button.setAttribute("aria-checked", chosen);
          button.tabIndex = chosen ? 0 : -1;
        }
      },
      tell: (value) => String(value).replace("-", "\u2212"),
      press: (chosen) => {
        // once the list is there
        setTimeout(() => {
          for (const button of document.querySelectorAll("button[data-neuron]"))
            button.setAttribute("aria-pressed", button.dataset.neuron === chosen);
        });
      },
      settle: (value, name) => {
        clearTimeout(waiting[name]);
        waiting[name] = setTimeout(() => choose(`${name}-settled`, value), PAUSE);
        return window.dash_clientside.no_update;
      },
    },
  });
})();
