defmodule SangoWeb.GuideTest do
  @moduledoc "The LiveView and the controller of `docs/phoenix.md`, compiled from there, draw a picture."

  use ExUnit.Case

  import Phoenix.ConnTest
  import Phoenix.LiveViewTest

  @endpoint SangoWeb.Endpoint
  @guide Path.expand("../../../../docs/phoenix.md", __DIR__)

  # What a new Phoenix app has already.
  defmodule Elixir.GalleryWeb do
    def live_view do
      quote do
        use Phoenix.LiveView
        alias GalleryWeb.Layouts
        import GalleryWeb, only: [sigil_p: 2]
      end
    end

    def controller do
      quote do
        use Phoenix.Controller, formats: [:html, :json]
        import Plug.Conn
      end
    end

    defmacro __using__(which), do: apply(__MODULE__, which, [])
    # The routes are not verified here: `mix compile` of the real app does that.
    defmacro sigil_p({:<<>>, _, _} = path, _modifiers), do: path
  end

  defmodule Elixir.GalleryWeb.Layouts do
    use Phoenix.Component
    attr :flash, :map
    slot :inner_block
    def app(assigns), do: ~H"<main>{render_slot(@inner_block)}</main>"
  end

  setup_all do
    for [_, path, code] <-
          Regex.scan(~r/```elixir\n# (lib\S+_(?:live|controller)\.ex)\n(.*?)```/s, File.read!(@guide)) do
      Code.compile_string(code, path)
    end

    :ok
  end

  defp eventually(view, true?, tries \\ 500) do
    cond do
      true?.(view) -> true
      tries == 0 -> flunk("it never came: " <> render(view))
      true -> Process.sleep(10) && eventually(view, true?, tries - 1)
    end
  end

  defp draw(view, prompt), do: view |> element("form") |> render_submit(%{prompt: prompt})

  setup do
    conn = %{build_conn() | host: "localhost"}
    {:ok, view, _html} = live_isolated(conn, GalleryWeb.DrawLive)
    %{conn: conn, view: view}
  end

  test "a prompt becomes a picture", %{conn: conn, view: view} do
    draw(view, "a small green ring on a white background")
    eventually(view, &has_element?(&1, "[role=status]", "finished"))
    assert [_, id] = Regex.run(~r{src="/pictures/([^"]+)"}, render(view))

    show = &apply(GalleryWeb.PictureController, :call, [%{conn | params: %{"id" => &1}}, :show])
    page = show.(id)
    assert <<0x89, "PNG", _::binary>> = response(page, 200)
    assert Plug.Conn.get_resp_header(page, "content-type") == ["image/png"]
    assert %{"error" => %{"code" => "unknown_job"}} = json_response(show.("nonsense"), 404)
  end

  test "what cannot be drawn is said, and a job ends with its page", %{view: view} do
    assert draw(view, "") =~ "prompt"
    blocker = SangoWeb.Jobs.submit_long()
    SangoWeb.Jobs.wait(blocker["id"], "running")
    draw(view, "a large cyan star on a gray background")
    eventually(view, &has_element?(&1, "[role=status]", "in the line"))
    {:ok, %{"jobs" => [%{"id" => id, "state" => "queued"} | _]}} = Sango.list()
    Process.flag(:trap_exit, true)
    Process.exit(view.pid, :kill)
    SangoWeb.Jobs.wait(id, "cancelled")
  end

  test "a picture can be cancelled", %{view: view} do
    blocker = SangoWeb.Jobs.submit_long()
    SangoWeb.Jobs.wait(blocker["id"], "running")
    draw(view, "a large cyan star on a gray background")
    eventually(view, &has_element?(&1, "[role=status]", "in the line"))
    view |> element("button", "Cancel") |> render_click()
    eventually(view, &has_element?(&1, "[role=status]", "cancelled"))
  end
end
