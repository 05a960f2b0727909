defmodule Sango.MemoryBackend do
  @moduledoc """
  An engine in memory, for tests of the processes around it: it keeps the contract of `Sango.Backend`, and jobs run
  only as the test says.

  Stored jobs are in an agent that outlives the engine, named by the data folder, as the files of the real one do.
  """

  @behaviour Sango.Backend
  use GenServer

  alias Sango.MemoryBackend.Store

  # -- What a test does with it --------------------------------------------------------------------------------------

  @doc "The handle of an instance's engine."
  def handle(name) do
    [{_pid, {__MODULE__, handle}}] = Registry.lookup(Sango.Registry, {name, :engine})
    handle
  end

  @doc "Takes the next job, as a worker does. Gives back its id, or `nil`."
  def start_next(name), do: GenServer.call(handle(name), :start_next)

  @doc "The job makes a step."
  def step(name, id), do: GenServer.call(handle(name), {:step, id})

  @doc "The job's run ends."
  def finish(name, id), do: GenServer.call(handle(name), {:end_run, id, "finished"})

  @doc "The job's run ends badly, in a way that may pass: it waits again."
  def stumble(name, id), do: GenServer.call(handle(name), {:stumble, id})

  @doc "Submissions wait until `release/1`."
  def hold(name), do: GenServer.call(handle(name), :hold)
  def release(name), do: GenServer.call(handle(name), :release)

  @doc "How many submissions wait."
  def held(name), do: GenServer.call(handle(name), :held)

  @doc "Watchers are told that they missed something, and nothing else until then."
  def deafen(name), do: GenServer.call(handle(name), :deafen)
  def lag(name), do: GenServer.call(handle(name), :lag)

  @doc "How often the engine was told an order."
  def arrangements(name), do: GenServer.call(handle(name), :arrangements)

  @doc "The order that the engine was told last."
  def places(name), do: GenServer.call(handle(name), :places)

  # -- The behaviour -------------------------------------------------------------------------------------------------

  @impl Sango.Backend
  def open(options, owner) do
    Store.ensure_started(options.data_dir)

    if Store.lock(options.data_dir) do
      {:ok, pid} = GenServer.start(__MODULE__, {options, owner})
      {:ok, pid}
    else
      {:error, {"storage", "another engine is using it", 500}}
    end
  end

  @impl Sango.Backend
  def close(pid), do: ask(pid, :close) |> then(fn _ -> :ok end)
  @impl Sango.Backend
  def submit(_pid, %{prompt: "crash"}), do: exit(:on_purpose)
  def submit(pid, request), do: ask(pid, {:submit, request})
  @impl Sango.Backend
  def get(pid, id), do: ask(pid, {:get, id})
  @impl Sango.Backend
  def cancel(pid, id), do: ask(pid, {:cancel, id})
  @impl Sango.Backend
  def list(pid, query), do: ask(pid, {:list, query})
  @impl Sango.Backend
  def events_after(pid, id, n), do: ask(pid, {:events_after, id, n})
  @impl Sango.Backend
  def subscribe(pid, id, n, to, tag), do: ask(pid, {:subscribe, id, n, to, tag})
  @impl Sango.Backend
  def watch(pid, to, tag), do: ask(pid, {:watch, to, tag})
  @impl Sango.Backend
  def unsubscribe({pid, tag}), do: ask(pid, {:unsubscribe, tag}) |> then(fn _ -> :ok end)
  @impl Sango.Backend
  def arrange(pid, ids), do: ask(pid, {:arrange, ids})
  @impl Sango.Backend
  def ready(pid), do: ask(pid, :ready)
  @impl Sango.Backend
  def result(_pid, id), do: {:error, {"not_finished", "job #{id} draws nothing in memory", 409}}
  @impl Sango.Backend
  def read_result(pid, id), do: result(pid, id)
  @impl Sango.Backend
  def stage_result(_pid, id, stage), do: {:error, {"not_found", "job #{id} has no stage `#{stage}`", 404}}
  @impl Sango.Backend
  def media(_pid, id, index), do: {:error, {"not_found", "job #{id} has no media number #{index}", 404}}
  @impl Sango.Backend
  def models(_pid), do: {:ok, []}
  @impl Sango.Backend
  def load_model(_pid, name), do: {:error, {"unknown_model", "there is no model `#{name}`", 404}}
  @impl Sango.Backend
  def unload_model(pid, name), do: load_model(pid, name)
  @impl Sango.Backend
  def stats(_pid), do: {:ok, %{}}

  defp ask(pid, request) do
    GenServer.call(pid, request, :infinity)
  catch
    :exit, _ -> {:error, {"shutting_down", "the engine is closed", 503}}
  end

  # -- The engine ----------------------------------------------------------------------------------------------------

  @impl GenServer
  def init({options, owner}) do
    Process.monitor(owner)

    state = %{
      data: options.data_dir,
      max: options.max_unfinished,
      owner: owner,
      places: [],
      arrangements: 0,
      feeds: %{},
      watchers: %{},
      held: nil,
      deaf?: false
    }

    {:ok, Enum.reduce(Store.jobs(options.data_dir), state, &recover(&2, &1))}
  end

  defp recover(state, %{"state" => "running"} = job), do: change(state, job, "queued", "interrupted")
  defp recover(state, _job), do: state

  @impl GenServer
  def handle_call({:submit, request}, from, %{held: held} = state) when is_list(held) do
    {:noreply, %{state | held: [{request, from} | held]}}
  end

  def handle_call({:submit, request}, _from, state) do
    {answer, state} = store(state, request)
    {:reply, answer, state}
  end

  def handle_call(:hold, _from, state), do: {:reply, :ok, %{state | held: []}}
  def handle_call(:held, _from, state), do: {:reply, length(state.held), state}

  def handle_call(:release, _from, state) do
    state =
      Enum.reduce(Enum.reverse(state.held), %{state | held: nil}, fn {request, from}, state ->
        {answer, state} = store(state, request)
        GenServer.reply(from, answer)
        state
      end)

    {:reply, :ok, state}
  end

  def handle_call({:get, id}, _from, state), do: {:reply, found(state, id), state}

  def handle_call({:cancel, id}, _from, state) do
    case found(state, id) do
      {:ok, %{"state" => s} = job} when s in ["queued", "interrupted", "running"] ->
        state = change(state, job, "cancelled", "cancelled")
        {:reply, found(state, id), state}

      other ->
        {:reply, other, state}
    end
  end

  def handle_call({:list, query}, _from, state) do
    jobs =
      state.data
      |> Store.jobs()
      |> Enum.reverse()
      |> Enum.filter(&(query[:state] in [nil, &1["state"]]))
      |> Enum.filter(&(query[:before] == nil or &1["id"] < query[:before]))

    {page, more} = Enum.split(jobs, query[:limit] || 50)
    {:reply, {:ok, %{"jobs" => page, "next" => if(more != [], do: List.last(page)["id"])}}, state}
  end

  def handle_call({:events_after, id, n}, _from, state) do
    {:reply, {:ok, Enum.filter(Store.events(state.data, id), &(&1["n"] > n))}, state}
  end

  def handle_call({:subscribe, id, n, to, tag}, _from, state) do
    case found(state, id) do
      {:ok, job} ->
        for event <- Store.events(state.data, id), event["n"] > n, do: send(to, {:sango_event, tag, event})
        ended? = job["state"] in ["finished", "failed", "cancelled"]
        if ended?, do: send(to, {:sango_end, tag})
        feeds = if ended?, do: state.feeds, else: Map.put(state.feeds, tag, {id, to})
        {:reply, {:ok, {self(), tag}}, %{state | feeds: feeds}}

      error ->
        {:reply, error, state}
    end
  end

  def handle_call({:watch, to, tag}, _from, state) do
    {:reply, {:ok, {self(), tag}}, %{state | watchers: Map.put(state.watchers, tag, to)}}
  end

  def handle_call({:unsubscribe, tag}, _from, state) do
    {:reply, :ok, %{state | feeds: Map.delete(state.feeds, tag), watchers: Map.delete(state.watchers, tag)}}
  end

  def handle_call({:arrange, ids}, _from, state) do
    {:reply, :ok, %{state | places: ids, arrangements: state.arrangements + 1}}
  end

  def handle_call(:arrangements, _from, state), do: {:reply, state.arrangements, state}
  def handle_call(:places, _from, state), do: {:reply, state.places, state}
  def handle_call(:ready, _from, state), do: {:reply, :ok, state}
  def handle_call(:deafen, _from, state), do: {:reply, :ok, %{state | deaf?: true}}

  def handle_call(:lag, _from, state) do
    for {tag, pid} <- state.watchers, do: send(pid, {:sango_lagged, tag, 1})
    {:reply, :ok, %{state | deaf?: false}}
  end

  def handle_call(:start_next, _from, state) do
    place = fn job ->
      {Enum.find_index(state.places, &(&1 == job["id"])) || :infinity, -job["request"]["priority"], job["id"]}
    end

    waiting = Enum.filter(Store.jobs(state.data), &(&1["state"] in ["queued", "interrupted"]))

    case Enum.min_by(waiting, place, fn -> nil end) do
      nil -> {:reply, nil, state}
      job -> {:reply, job["id"], change(state, job, "started", "running")}
    end
  end

  def handle_call({:step, id}, _from, state) do
    {:ok, job} = found(state, id)
    {:reply, :ok, change(state, job, "progress", "running")}
  end

  def handle_call({:end_run, id, how}, _from, state) do
    {:ok, job} = found(state, id)
    {:reply, :ok, change(state, job, how, how)}
  end

  def handle_call({:stumble, id}, _from, state) do
    {:ok, job} = found(state, id)
    {:reply, :ok, change(state, job, "queued", "queued")}
  end

  def handle_call(:close, _from, state), do: {:stop, :normal, :ok, shut(state)}

  @impl GenServer
  def handle_info({:DOWN, _ref, :process, owner, _reason}, %{owner: owner} = state) do
    # The folder is free a moment later, as with a run that ends its step first.
    Process.sleep(30)
    {:stop, :normal, shut(state)}
  end

  defp shut(state) do
    for {tag, {_id, pid}} <- state.feeds, do: send(pid, {:sango_end, tag})
    for {tag, pid} <- state.watchers, do: send(pid, {:sango_end, tag})
    Store.unlock(state.data)
    state
  end

  defp store(state, request) do
    request = Map.new(request, fn {key, value} -> {to_string(key), value} end)
    key = request["idempotency_key"]
    jobs = Store.jobs(state.data)
    known = Enum.find(jobs, &(key && &1["request"]["idempotency_key"] == key))
    unfinished = Enum.count(jobs, &(&1["state"] in ["queued", "interrupted", "running"]))

    cond do
      not is_binary(request["prompt"]) ->
        {{:error, {"invalid_request", "not a job: missing field `prompt`", 400}}, state}

      known ->
        {{:ok, {known, false}}, state}

      unfinished >= state.max ->
        {{:error, {"queue_full", "#{unfinished} jobs are waiting or running", 503}}, state}

      true ->
        n = length(jobs) + 1
        id = "job-" <> String.pad_leading("#{n}", 6, "0")
        request = Map.put_new(request, "priority", 0)
        job = %{"id" => id, "created_at" => n, "request" => request, "last_event" => 0}
        state = change(state, job, "queued", "queued")
        {:ok, job} = found(state, id)
        {{:ok, {job, true}}, state}
    end
  end

  defp change(state, job, event, to) do
    id = job["id"]
    n = job["last_event"] + 1
    job = Map.merge(job, %{"state" => to, "last_event" => n})
    event = %{"n" => n, "job" => id, "event" => event, "at" => 0, "data" => %{}}
    Store.put(state.data, job, event)
    for {tag, {^id, pid}} <- state.feeds, do: send(pid, {:sango_event, tag, event})
    if not state.deaf?, do: for({tag, pid} <- state.watchers, do: send(pid, {:sango_job, tag, job}))
    state
  end

  defp found(state, id) do
    case Enum.find(Store.jobs(state.data), &(&1["id"] == id)) do
      nil -> {:error, {"unknown_job", "there is no job #{inspect(id)}", 404}}
      job -> {:ok, job}
    end
  end

  defmodule Store do
    @moduledoc false
    # What would be on disk.

    def ensure_started(folder) do
      case Agent.start(fn -> %{jobs: %{}, events: %{}, locked?: false} end, name: name(folder)) do
        {:ok, _pid} -> :ok
        {:error, {:already_started, _pid}} -> :ok
      end
    end

    def lock(folder), do: Agent.get_and_update(name(folder), &{not &1.locked?, %{&1 | locked?: true}})
    def unlock(folder), do: Agent.update(name(folder), &%{&1 | locked?: false})
    def jobs(folder), do: Agent.get(name(folder), & &1.jobs) |> Enum.sort() |> Enum.map(&elem(&1, 1))
    def events(folder, id), do: Agent.get(name(folder), &Map.get(&1.events, id, []))

    def put(folder, job, event) do
      Agent.update(name(folder), fn store ->
        events = Map.update(store.events, job["id"], [event], &(&1 ++ [event]))
        %{store | jobs: Map.put(store.jobs, job["id"], job), events: events}
      end)
    end

    defp name(folder), do: {:global, {__MODULE__, folder}}
  end
end
