defmodule SangoWeb.Metrics do
  @moduledoc "What Prometheus reads: the engine's counts, and those of this process."

  use GenServer

  @doc false
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Counts the answer to a request, by its status."
  @spec count_answer(Plug.Conn.t()) :: Plug.Conn.t()
  def count_answer(conn) do
    Plug.Conn.register_before_send(conn, fn conn ->
      count(conn.status)
      conn
    end)
  end

  @doc "Counts the calling process as an open socket until it ends."
  @spec count_socket() :: :ok
  def count_socket do
    count(101)
    GenServer.cast(__MODULE__, {:socket, self()})
  end

  @doc "The metrics as Prometheus text."
  @spec text() :: {:ok, String.t()} | {:error, Sango.Error.t()}
  def text do
    with {:ok, stats} <- Sango.stats(), do: {:ok, IO.iodata_to_binary(metrics(stats))}
  end

  @impl true
  def init(nil) do
    :persistent_term.put(__MODULE__, :counters.new(600, [:write_concurrency]))
    {:ok, MapSet.new()}
  end

  @impl true
  def handle_cast({:socket, pid}, sockets) do
    Process.monitor(pid)
    {:noreply, MapSet.put(sockets, pid)}
  end

  @impl true
  def handle_call(:sockets, _from, sockets), do: {:reply, MapSet.size(sockets), sockets}

  @impl true
  def handle_info({:DOWN, _ref, :process, pid, _reason}, sockets),
    do: {:noreply, MapSet.delete(sockets, pid)}

  defp count(status), do: :counters.add(:persistent_term.get(__MODULE__), status, 1)

  defp metrics(stats) do
    [
      metric("sango_jobs", "gauge", "Stored jobs by state.", labelled("state", stats["jobs"])),
      metric("sango_jobs_submitted_total", "counter", "Jobs taken in.", stats["submitted"]),
      metric("sango_jobs_refused_total", "counter", "Jobs refused by a full queue.", stats["refused"]),
      metric("sango_cache_hits_total", "counter", "Jobs answered by a finished one.", stats["cache_hits"]),
      metric("sango_jobs_shared_total", "counter", "Jobs that joined a run in flight.", stats["shared"]),
      metric("sango_runs_total", "counter", "Runs begun.", stats["runs"]),
      metric("sango_run_seconds", "summary", "Time that runs took.", [
        {"_sum", :erlang.float_to_binary(stats["run_ms"] / 1000, decimals: 3)},
        {"_count", stats["run_count"]}
      ]),
      metric("sango_tokens_total", "counter", "Tokens of answers.", stats["tokens"]),
      metric("sango_first_token_seconds", "summary", "Time from the start of a run to its first token.", [
        {"_sum", :erlang.float_to_binary(stats["first_token_ms"] / 1000, decimals: 3)},
        {"_count", stats["first_token_count"]}
      ]),
      metric("sango_subscriptions", "gauge", "Listeners to jobs in flight.", stats["feeds"]),
      metric("sango_sockets", "gauge", "Open sockets.", GenServer.call(__MODULE__, :sockets)),
      metric("sango_http_requests_total", "counter", "HTTP answers by status.", labelled("status", answers()))
    ]
  end

  defp metric(name, kind, help, values) when is_list(values) do
    lines = for {label, value} <- values, do: [name, label, " ", to_string(value), "\n"]
    ["# HELP #{name} #{help}\n# TYPE #{name} #{kind}\n" | lines]
  end

  defp metric(name, kind, help, value), do: metric(name, kind, help, [{"", value}])

  defp labelled(label, counts),
    do: for({key, count} <- Enum.sort(counts), do: {~s({#{label}="#{key}"}), count})

  defp answers do
    counters = :persistent_term.get(__MODULE__)
    for status <- 100..599, count = :counters.get(counters, status), count > 0, do: {status, count}
  end
end
