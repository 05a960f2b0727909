defmodule SangoWeb.OpsComponents do
  @moduledoc "The parts of the operations page."

  use Phoenix.Component

  import SangoWeb.OpsFormat

  attr :ready, :any, required: true
  attr :uptime, :integer, required: true

  @doc "The head of the page, with whether jobs can run."
  def bar(assigns) do
    ~H"""
    <header class="bar">
      <a class="brand" href="/">
        <img src="/favicon.svg" alt="" width="24" height="24" />
        <span>Sango</span>
      </a>
      <h1>Operations</h1>
      <p :if={@ready == :ok} class="state" data-state="finished" role="status">Ready</p>
      <p :if={@ready != :ok} class="state" data-state="failed" role="status" title={elem(@ready, 1).message}>
        Not ready: {elem(@ready, 1).code}
      </p>
      <p class="hint">up {span(@uptime)}</p>
      <a class="button" href="/">Studio</a>
    </header>
    """
  end

  attr :message, :string, required: true

  @doc "What went wrong with the last thing that was asked for."
  def problem(assigns) do
    ~H"""
    <div class="problem" role="alert">
      <p>{@message}</p>
      <button type="button" phx-click="dismiss">Dismiss</button>
    </div>
    """
  end

  attr :stats, :map, required: true
  attr :waiting, :integer, required: true

  @doc "The few numbers that tell how it goes."
  def figures(assigns) do
    ~H"""
    <ul class="figures" aria-label="Jobs">
      <.figure name="Running" value={count(@stats, "running")} />
      <.figure name="Waiting" value={@waiting} />
      <.figure name="Finished" value={count(@stats, "finished")} />
      <.figure name="Failed" value={count(@stats, "failed")} />
      <.figure name="Refused" value={Map.get(@stats, "refused", 0)} hint="since the start" />
      <.figure name="From the cache" value={Map.get(@stats, "cache_hits", 0)} hint="since the start" />
      <.figure name="Time of a run" value={mean_run(@stats)} hint="on average" />
    </ul>
    """
  end

  attr :name, :string, required: true
  attr :value, :any, required: true
  attr :hint, :string, default: nil

  defp figure(assigns) do
    ~H"""
    <li class="figure">
      <span class="name">{@name}</span> <strong>{@value}</strong> <span :if={@hint} class="hint">{@hint}</span>
    </li>
    """
  end

  attr :waiting, :map, required: true
  attr :now, :integer, required: true

  @doc "The jobs that wait, in the order in which they will run."
  def queue(assigns) do
    ~H"""
    <section class="card" id="queue">
      <h2>Queue</h2>
      <p :if={@waiting.count == 0} class="hint">Nothing waits.</p>
      <div :if={@waiting.count > 0} class="scroll">
        <table>
          <thead>
            <tr>
              <th class="number">#</th>
              <th>Prompt or question</th>
              <th class="minor">Client</th>
              <th class="number minor">Priority</th>
              <th class="minor">Handed in</th>
              <th></th>
            </tr>
          </thead>
          <tbody>
            <tr :for={{entry, place} <- Enum.with_index(@waiting.shown, 1)} :key={entry.id}>
              <td class="number">{place}</td>
              <td class="prompt"><.prompt job={entry.job} /></td>
              <td class="minor">{client(entry.client)}</td>
              <td class="number minor">{entry.priority}</td>
              <td class="minor">{entry.job["created_at"] && ago(entry.job["created_at"], @now)}</td>
              <td class="action"><.cancel id={entry.id} /></td>
            </tr>
          </tbody>
        </table>
      </div>
      <p :if={@waiting.count > length(@waiting.shown)} class="hint">
        and {@waiting.count - length(@waiting.shown)} more
      </p>
    </section>
    """
  end

  attr :models, :list, required: true
  attr :busy, :map, required: true

  @doc "The models, and whether they are in memory."
  def models(assigns) do
    ~H"""
    <section class="card" id="models">
      <h2>Models</h2>
      <p :if={@models == []} class="hint">The models folder holds no model that can be used.</p>
      <ul class="models">
        <li :for={model <- @models} :key={model["name"]}>
          <div>
            <strong>{model["name"]}</strong>
            <span :if={model["default"]} class="tag">default</span>
            <p class="hint">
              {model["kind"]} · {makes(model)} · {bytes(model["bytes"])} on disk
            </p>
          </div>
          <p class="state" data-state={if model["loaded"], do: "finished", else: "idle"}>
            {if model["loaded"], do: "loaded", else: "not loaded"}
          </p>
          <button
            type="button"
            phx-click={if model["loaded"], do: "unload", else: "load"}
            phx-value-model={model["name"]}
            disabled={is_map_key(@busy, model["name"])}
          >
            {action(@busy[model["name"]], model["loaded"])}
          </button>
        </li>
      </ul>
    </section>
    """
  end

  attr :jobs, :list, required: true
  attr :now, :integer, required: true

  @doc "The newest jobs."
  def jobs(assigns) do
    ~H"""
    <section class="card wide" id="jobs">
      <h2>Recent jobs</h2>
      <p :if={@jobs == []} class="hint">None yet: draw or ask something in the <a href="/">studio</a>.</p>
      <div :if={@jobs != []} class="scroll">
        <table>
          <thead>
            <tr>
              <th><span class="sr-only">Picture</span></th>
              <th>Prompt or question</th>
              <th>State</th>
              <th class="minor">Model</th>
              <th class="number minor">Took</th>
              <th class="minor">Handed in</th>
              <th></th>
            </tr>
          </thead>
          <tbody>
            <tr :for={job <- @jobs} :key={job["id"]} id={"job-" <> job["id"]}>
              <td class="picture"><.picture job={job} /></td>
              <td class="prompt"><.prompt job={job} /></td>
              <td><.job_state job={job} /></td>
              <td class="minor">{job["model"]}</td>
              <td class="number minor">{took(job)}</td>
              <td class="minor">{ago(job["created_at"], @now)}</td>
              <td class="action"><.cancel :if={going?(job)} id={job["id"]} /></td>
            </tr>
          </tbody>
        </table>
      </div>
    </section>
    """
  end

  attr :stats, :map, required: true
  attr :vm, :map, required: true

  @doc "Memory and threads."
  def machine(assigns) do
    ~H"""
    <section class="card" id="machine">
      <h2>Memory and threads</h2>
      <dl>
        <div>
          <dt>Memory of the process</dt><dd>{bytes(@stats["rss_bytes"])}</dd>
        </div>
        <div>
          <dt>Erlang's memory</dt><dd>{bytes(@vm.memory)}</dd>
        </div>
        <div>
          <dt>– in its processes</dt><dd>{bytes(@vm.processes)}</dd>
        </div>
        <div>
          <dt>– in binaries</dt><dd>{bytes(@vm.binaries)}</dd>
        </div>
        <div>
          <dt>Threads</dt><dd>{@stats["threads"] || "unknown"}</dd>
        </div>
        <div>
          <dt>Schedulers</dt><dd>{@vm.schedulers}</dd>
        </div>
        <div>
          <dt>Run queue</dt><dd>{@vm.run_queue}</dd>
        </div>
        <div>
          <dt>Erlang processes</dt><dd>{@vm.process_count}</dd>
        </div>
        <div>
          <dt>Listeners to jobs</dt><dd>{Map.get(@stats, "feeds", 0)}</dd>
        </div>
      </dl>
    </section>
    """
  end

  # What a job is asked for, in the words of whoever asked.
  defp words(%{"request" => %{"question" => question}}), do: question
  defp words(%{"request" => request}), do: request["prompt"]

  defp drawn?(job), do: job["state"] == "finished" and job["kind"] == "image"

  defp makes(%{"understand" => %{"frames" => frames, "max_tokens" => tokens}}),
    do: "answers, #{frames} frames, #{tokens} tokens"

  defp makes(%{"video" => %{"frames" => frames}} = model),
    do: "#{frames} frames of #{model["width"]} × #{model["height"]} · #{model["steps"]} steps"

  defp makes(model), do: "#{model["width"]} × #{model["height"]} · #{model["steps"]} steps"

  attr :job, :map, required: true

  defp prompt(assigns) do
    ~H"""
    <a :if={@job["id"]} href={"/#job=" <> @job["id"]}>{words(@job)}</a>
    """
  end

  attr :job, :map, required: true

  defp picture(assigns) do
    ~H"""
    <a :if={drawn?(@job)} href={@job["result"]["url"]}>
      <img src={@job["result"]["url"]} alt={words(@job)} width="40" height="40" loading="lazy" />
    </a>
    <span :if={not drawn?(@job)} class="blank"></span>
    """
  end

  attr :job, :map, required: true

  defp job_state(assigns) do
    ~H"""
    <span class="state" data-state={@job["state"]} title={@job["error"] && @job["error"]["message"]}>
      {@job["state"]}{@job["error"] && ": " <> @job["error"]["code"]}
    </span>
    <progress
      :if={@job["state"] == "running"}
      value={(@job["progress"] || %{})["step"] || 0}
      max={(@job["progress"] || %{})["total"] || 1}
    ></progress>
    <span :if={@job["result"] && @job["result"]["cached"]} class="tag">cached</span>
    """
  end

  attr :id, :string, required: true

  defp cancel(assigns) do
    ~H"""
    <button type="button" class="small" phx-click="cancel" phx-value-id={@id}>Cancel</button>
    """
  end

  defp action("load", _loaded), do: "Loading…"
  defp action("unload", _loaded), do: "Unloading…"
  defp action(nil, true), do: "Unload"
  defp action(nil, _loaded), do: "Load"

  defp count(stats, state), do: stats |> Map.get("jobs", %{}) |> Map.get(state, 0)

  defp mean_run(%{"run_count" => count, "run_ms" => ms}) when count > 0, do: span(div(ms, count))
  defp mean_run(_stats), do: "–"

  defp going?(job), do: job["state"] in ["queued", "running", "interrupted"]

  defp took(%{"started_at" => from, "finished_at" => to}) when is_integer(from) and is_integer(to),
    do: span(to - from)

  defp took(_job), do: "–"
end
