defmodule SangoWeb.StudioChannelTest do
  @moduledoc "What the frames of `SangoWeb.SocketTest` cannot show: a client that is slow, and whose jobs take turns."

  use ExUnit.Case

  import Phoenix.ChannelTest
  import SangoWeb.Jobs

  alias SangoWeb.{JobChannel, StudioChannel, UserSocket}

  @endpoint SangoWeb.Endpoint

  setup do
    {:ok, socket} = connect(UserSocket, %{})
    {:ok, welcome, channel} = subscribe_and_join(socket, StudioChannel, "studio")
    %{socket: socket, welcome: welcome, channel: channel}
  end

  test "joining shows the newest jobs and the models", %{welcome: welcome} do
    assert length(welcome.jobs) <= 20
    assert [%{"name" => _, "loaded" => _} | _] = welcome.models
  end

  test "a slow client is told nothing, and then how things are", %{channel: channel} do
    %{"id" => id} = drawn()
    assert_push "job", %{"id" => ^id, "state" => "finished"}, 2_000
    forget_pushes()
    # The test is the connection, and does not look at what waits for it.
    for n <- 1..100, do: send(self(), {:unread, n})
    for n <- 1..50, do: send(channel.channel_pid, {:sango, :job, %{"id" => "change #{n}"}})
    _ = :sys.get_state(channel.channel_pid)
    refute_received %Phoenix.Socket.Message{payload: %{"id" => "change" <> _}}
    # Still slow when it is looked at again.
    Process.sleep(300)
    refute_received %Phoenix.Socket.Message{event: "job"}
    for n <- 1..100, do: assert_received({:unread, ^n})
    assert_push "job", %{"id" => ^id, "state" => "finished"}, 2_000
    # From here on it is told again, as long as it takes what it is told.
    forget_pushes()
    %{"id" => next} = drawn()
    assert_push "job", %{"id" => ^next, "state" => "finished"}, 2_000
  end

  defp forget_pushes do
    receive do
      %Phoenix.Socket.Message{} -> forget_pushes()
    after
      50 -> :ok
    end
  end

  test "what the engine left out is made up for", %{channel: channel} do
    %{"id" => id} = drawn()
    assert_push "job", %{"id" => ^id, "state" => "finished"}, 2_000
    send(channel.channel_pid, {:sango, :lagged, 3})
    assert_push "job", %{"id" => ^id, "state" => "finished"}, 2_000
  end

  test "each socket is a client of its own, and its job is nobody's to end", %{channel: channel} do
    blocker = submit_long()
    wait(blocker["id"], "running")
    {:ok, other} = connect(UserSocket, %{})
    {:ok, _, other} = subscribe_and_join(other, StudioChannel, "studio")

    [first, second, third] =
      for socket <- [channel, channel, other] do
        ref = push(socket, "submit", long())
        assert_reply ref, :ok, %{"id" => id}
        on_exit(fn -> Sango.cancel(id) end)
        id
      end

    {:ok, line} = Sango.waiting()
    # The other client's job does not wait for both of the first one's.
    assert [^first, ^third, ^second] = for(%{id: id} <- line, id in [first, second, third], do: id)

    Process.unlink(channel.channel_pid)
    close(channel)
    assert {:ok, %{"state" => "queued"}} = Sango.get(first)
  end

  test "a job's channel pushes its events under their names", %{socket: socket} do
    %{"id" => id} = drawn()
    {:ok, %{job: %{"id" => ^id}}, _} = subscribe_and_join(socket, JobChannel, "job:" <> id)
    assert_push "queued", %{"n" => 1, "job" => ^id}
    assert_push "progress", %{"data" => %{"step" => 12, "total" => 12}}
    assert_push "finished", %{"data" => %{"result" => %{"sha256" => _}}}
  end
end
