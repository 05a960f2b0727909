defmodule SangoWeb.OpsLive do
  @moduledoc """
  The operations page: the queue, the models with loading and unloading, recent jobs with cancelling, memory and
  threads.
  """

  use Phoenix.LiveView

  import SangoWeb.OpsComponents

  alias SangoWeb.OpsState

  # A running job changes many times a second, and nobody reads that fast. In ms.
  @gather 200
  # Times, memory and whatever no job tells of.
  @tick 2_000

  @impl true
  def mount(_params, _session, socket) do
    if connected?(socket) do
      :ok = Sango.watch()
      Process.send_after(self(), :tick, @tick)
    end

    {:ok,
     socket
     |> assign(page_title: "Sango operations", busy: %{}, problem: nil, changed: %{}, gathering?: false)
     |> assign(OpsState.read())}
  end

  @impl true
  def render(assigns) do
    ~H"""
    <.bar ready={@ready} uptime={@vm.uptime} />
    <main class="page">
      <.problem :if={@problem} message={@problem} />
      <.figures stats={@stats} waiting={@waiting.count} />
      <.queue waiting={@waiting} now={@now} />
      <.models models={@models} busy={@busy} />
      <.jobs jobs={@jobs} now={@now} />
      <.machine stats={@stats} vm={@vm} />
    </main>
    """
  end

  @impl true
  def handle_event("cancel", %{"id" => id}, socket) do
    case Sango.cancel(id) do
      {:ok, job} -> {:noreply, socket |> assign(:problem, nil) |> show([job])}
      {:error, error} -> {:noreply, assign(socket, :problem, error.message)}
    end
  end

  # Loading takes a moment, and the page goes on meanwhile.
  def handle_event(action, %{"model" => model}, socket) when action in ["load", "unload"] do
    if is_map_key(socket.assigns.busy, model) do
      {:noreply, socket}
    else
      work = if action == "load", do: &Sango.load_model/1, else: &Sango.unload_model/1

      {:noreply,
       socket
       |> assign(:problem, nil)
       |> update(:busy, &Map.put(&1, model, action))
       |> start_async({:model, model}, fn -> work.(model) end)}
    end
  end

  def handle_event("dismiss", _params, socket), do: {:noreply, assign(socket, :problem, nil)}

  # A page of an earlier version, or no page at all.
  def handle_event(_event, _params, socket), do: {:noreply, socket}

  @impl true
  def handle_async({:model, model}, outcome, socket) do
    problem =
      case outcome do
        {:ok, {:ok, _model}} -> nil
        {:ok, {:error, error}} -> error.message
        {:exit, _reason} -> "`#{model}` could not be loaded or unloaded: the log says more"
      end

    {:noreply,
     socket |> update(:busy, &Map.delete(&1, model)) |> assign(OpsState.read()) |> assign(:problem, problem)}
  end

  @impl true
  def handle_info({:sango, :job, job}, socket) do
    if not socket.assigns.gathering?, do: Process.send_after(self(), :show, @gather)
    changed = Map.put(socket.assigns.changed, job["id"], job)
    {:noreply, assign(socket, changed: changed, gathering?: true)}
  end

  def handle_info(:show, socket) do
    changed = Map.values(socket.assigns.changed)
    {:noreply, socket |> assign(changed: %{}, gathering?: false) |> show(changed)}
  end

  def handle_info({:sango, :lagged, _n}, socket), do: {:noreply, assign(socket, OpsState.read())}

  def handle_info(:tick, socket) do
    Process.send_after(self(), :tick, @tick)
    {:noreply, assign(socket, OpsState.read())}
  end

  def handle_info(_message, socket), do: {:noreply, socket}

  defp show(socket, changed) do
    socket |> update(:jobs, &OpsState.merge_jobs(&1, changed)) |> assign(OpsState.read_counts())
  end
end
